"""The PAFPN variant of mmdetection."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor

from .backbones.deformable import build_resnet
from .pafpn import PAFPN, build_pyramid


class MMDetPAFPN(PAFPN):
    """mmdetection's variant of PAFPN, which sums all levels first and then convolves each sum.

    With ``M2 = P2`` and ``M(i+1) = P(i+1) + norm(conv3x3_stride2(M(i)))``, the outputs are
    ``N2 = P2`` and ``N(i) = norm(conv3x3(M(i)))``. There is no ReLU and, by default, no norm.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """
        Args:
            args, kwargs: see :class:`PAFPN`.
        """
        super().__init__(*args, **kwargs)
        convs: list[Any] = [*self.path_downsample.values(), *self.path_output.values()]
        for conv in convs:
            conv.activation = None

    def augment(self, features: dict[str, Tensor]) -> None:
        merged = features[self._out_features[0]]
        for downsample, (name, output) in zip(
            self.path_downsample.values(), self.path_output.items()
        ):
            merged = features[name] + downsample(merged)
            features[name] = output(merged)


@BACKBONE_REGISTRY.register()
def build_resnet_mmdet_pafpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> MMDetPAFPN:
    """Build a ResNet with mmdetection's PAFPN, where "p6" is a stride-2 max pooling of "p5"."""
    return build_pyramid(cfg, build_resnet(cfg, input_shape), MMDetPAFPN, LastLevelMaxPool())
