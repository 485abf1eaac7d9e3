"""Box heads on features pooled from all levels (PANet, section 3.2 and ablation in 4.1)."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_BOX_HEAD_REGISTRY, FastRCNNConvFCHead
from fvcore.nn import weight_init
from torch import Tensor, nn

from panet.utils.errors import UserError

from .cpu.tracing import is_tracing
from .fully_connected import FullyConnected
from .fusion import FusedFirstLayer, fusion_from_config
from .norms import check_roi_norm
from .pooler import Levels, PooledLevels


@ROI_BOX_HEAD_REGISTRY.register()
class PANetBoxHead(FastRCNNConvFCHead):
    """Box head with adaptive feature pooling: convolutions and fc layers on all levels.

    The first layer is a :class:`FusedFirstLayer` (PANet, section 3.2); the others are those of
    detectron2's ``FastRCNNConvFCHead``. Two fc layers without convolutions give the paper's "2fc"
    head; four convolutions and one fc layer give its "heavier head" (ablation in section 4.1).

    Attributes:
        rois_at_a_time: chunk size for :class:`PooledLevels` at inference on a CPU; None to
            process all RoIs at once.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        conv_dims: list[int],
        fc_dims: list[int],
        conv_norm: str = "",
        fc_norm: str = "",
        num_levels: int = 4,
        **fusion: Any,
    ) -> None:
        """
        Args:
            input_shape: channels, height and width of the RoI features of one level.
            conv_dims: output channels of the convolutions.
            fc_dims: output channels of the fc layers, of which there must be at least one.
            conv_norm: normalization of the convolutions.
            fc_norm: normalization of the fc layers.
            num_levels: L, the number of levels.
            fusion: arguments ``fusion``, ``fusion_position``, ``recompute`` and ``batched`` of
                :class:`FusedFirstLayer`.

        Raises:
            UserError: if a norm or a fusion argument is unknown, or if ``fc_dims`` is empty.
        """
        if not fc_dims:
            raise UserError("MODEL.ROI_BOX_HEAD.NUM_FC must be at least 1.")
        super().__init__(
            input_shape,
            conv_dims=conv_dims,
            fc_dims=fc_dims,
            conv_norm=check_roi_norm("MODEL.ROI_BOX_HEAD.NORM", conv_norm),
        )
        norm = check_roi_norm("MODEL.ROI_BOX_HEAD.FC_NORM", fc_norm)
        channels = conv_dims[-1] if conv_dims else input_shape.channels
        fc1 = FullyConnected(
            ShapeSpec(channels=channels, height=input_shape.height, width=input_shape.width),
            fc_dims[0],
            norm,
        )
        if norm:
            for number, (inputs, outputs) in enumerate(pairwise(fc_dims), start=2):
                fc = FullyConnected(ShapeSpec(channels=inputs, height=1, width=1), outputs, norm)
                weight_init.c2_xavier_fill(fc)
                self.add_module(f"fc{number}", fc)
                self.fcs[number - 1] = fc
        self.rois_at_a_time: int | None = None
        self.flatten = nn.Identity()  # the first fc layer flattens its input
        self.fc1: nn.Module = fc1
        if conv_dims:
            weight_init.c2_xavier_fill(fc1)
            first_conv = self.conv_norm_relus[0]
            first_conv.activation = None
            self.conv1 = FusedFirstLayer(
                first_conv, num_levels, initialize=weight_init.c2_msra_fill, **fusion
            )
            self.conv_norm_relus[0] = self.conv1
        else:
            self.fc1 = FusedFirstLayer(
                fc1, num_levels, initialize=weight_init.c2_xavier_fill, **fusion
            )
            self.fc_relu1 = nn.Identity()  # FusedFirstLayer includes the ReLU
        self.fcs[0] = self.fc1

    def forward(self, x: Levels) -> Tensor:
        """
        Args:
            x: RoI features of L levels, each (R, C, H, W).

        Returns:
            (R, ``output_shape.channels``).
        """
        if not torch.jit.is_scripting():
            return self._forward(x)
        assert isinstance(x, Tensor)
        features = x
        for layer in self:
            features = layer(features)
        return features

    def _forward(self, x: Levels) -> Tensor:
        forward: Callable[[Levels], Tensor] = super().forward
        if (
            self.rois_at_a_time is None
            or not isinstance(x, PooledLevels)
            or x.device.type != "cpu"
            or torch.is_grad_enabled()
            or is_tracing()
        ):
            return forward(x)
        return torch.cat([forward(part) for part in x.split_rois(self.rois_at_a_time)])

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        return {
            **super().from_config(cfg, input_shape),
            **fusion_from_config(cfg),
            "fc_norm": cfg.MODEL.ROI_BOX_HEAD.FC_NORM,
        }
