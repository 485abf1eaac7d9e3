"""Mask head with fully-connected fusion (PANet, section 3.3)."""

from typing import TYPE_CHECKING, Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import (
    MaskRCNNConvUpsampleHead,
    mask_rcnn_inference,
    mask_rcnn_loss,
)
from detectron2.structures import Instances
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from panet.utils.choices import check_choice
from panet.utils.errors import UserError

from .cpu.tracing import is_tracing
from .fully_connected import FullyConnected
from .fusion import FusedFirstLayer, fusion_from_config
from .norms import Norm, check_roi_norm
from .pooler import Levels

_COMBINATIONS = ("sum", "product", "max")

if TYPE_CHECKING:
    MaskHeadOutput = list[Instances] | dict[str, Tensor]
else:
    MaskHeadOutput = list[Instances]  # TorchScript evaluates annotations, and is for inference


class FullyConnectedBranch(nn.Module):
    """Fully-connected branch of the mask head (PANet, section 3.3).

    It predicts a class-agnostic mask from the whole RoI with two 3x3 convolutions, conv4_fc and
    conv5_fc, and one fc layer. conv5_fc halves the number of channels. Both convolutions are
    followed by normalization and ReLU.
    """

    def __init__(
        self, input_shape: ShapeSpec, mask_size: int, norm: Norm = "", relu: bool = False
    ) -> None:
        """
        Args:
            input_shape: channels, height and width of the features.
            mask_size: height and width of the mask.
            norm: normalization of the convolutions.
            relu: add a ReLU after the fc layer, as in the authors' release.
        """
        super().__init__()
        channels, height, width = input_shape.channels, input_shape.height, input_shape.width
        self.conv4_fc = _conv(channels, channels, norm)
        self.conv5_fc = _conv(channels, channels // 2, norm)
        self.fc = FullyConnected(
            ShapeSpec(channels=channels // 2, height=height, width=width), mask_size**2
        )
        self.mask_size = mask_size
        self.relu = relu
        # Same initialization as detectron2's mask predictor: logits start near zero.
        nn.init.normal_(self.fc.weight, std=0.001)
        nn.init.zeros_(self.fc.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (R, C, H, W).

        Returns:
            Mask logits, (R, 1, mask_size, mask_size).
        """
        logits = self.fc(self.conv5_fc(self.conv4_fc(x)))
        if self.relu:
            logits = F.relu_(logits)
        return logits.view(-1, 1, self.mask_size, self.mask_size)


@ROI_MASK_HEAD_REGISTRY.register()
class PANetMaskHead(MaskRCNNConvUpsampleHead):
    """Mask head with adaptive feature pooling and fully-connected fusion (PANet, section 3.3).

    detectron2's ``MaskRCNNConvUpsampleHead`` whose first convolution is a
    :class:`FusedFirstLayer` (section 3.2). A :class:`FullyConnectedBranch` starts from the output
    of one of the convolutions, conv3 in the paper, and its logits are added to, or otherwise
    combined with, the logits of every class.

    Attributes:
        rois_at_a_time: number of masks to predict at a time on a CPU; None to predict all masks
            at once.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        conv_dims: list[int],
        conv_norm: str = "",
        num_levels: int = 4,
        fusion: str = "max",
        fusion_position: str = "after",
        recompute: bool = False,
        batched: bool = False,
        fc_source: str = "conv3",
        fc_combination: str = "sum",
        fc_relu: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            input_shape: channels, height and width of the RoI features of one level.
            num_classes: number of masks per RoI; 1 for class-agnostic masks.
            conv_dims: output channels of the convolutions; the last element is for the
                deconvolution.
            conv_norm: normalization of the convolutions.
            num_levels: L, the number of levels.
            fusion, fusion_position, recompute, batched: see :class:`FusedFirstLayer`.
            fc_source: input of the fully-connected branch: the output of "conv2", "conv3" or
                "conv4", or "none" to disable the branch.
            fc_combination: how to combine the logits of both branches: "sum", "product" or "max".
            fc_relu: see ``relu`` of :class:`FullyConnectedBranch`.
            kwargs: see ``BaseMaskRCNNHead``.

        Raises:
            UserError: if a norm, a fusion argument, ``fc_source`` or ``fc_combination`` is
                unknown, or if there are no convolutions or too few for ``fc_source``.
        """
        norm = check_roi_norm("MODEL.ROI_MASK_HEAD.NORM", conv_norm)
        check_choice("MODEL.FC_FUSION.SOURCE", fc_source, ("none", "conv2", "conv3", "conv4"))
        num_convs = len(conv_dims) - 1
        needed = 1 if fc_source == "none" else int(fc_source.removeprefix("conv"))
        if num_convs < needed:
            raise UserError(
                f"MODEL.ROI_MASK_HEAD.NUM_CONV is {num_convs}; with MODEL.FC_FUSION.SOURCE "
                f"{fc_source!r} it must be at least {needed}."
            )
        super().__init__(
            input_shape, num_classes=num_classes, conv_dims=conv_dims, conv_norm=norm, **kwargs
        )
        first_conv = self.conv_norm_relus[0]
        first_conv.activation = None
        self.mask_fcn1 = FusedFirstLayer(
            first_conv,
            num_levels,
            initialize=weight_init.c2_msra_fill,
            fusion=fusion,
            fusion_position=fusion_position,
            recompute=recompute,
            batched=batched,
        )
        self.conv_norm_relus[0] = self.mask_fcn1
        self.fc_combination = check_choice(
            "MODEL.FC_FUSION.COMBINATION", fc_combination, _COMBINATIONS
        )
        self.num_convs = num_convs
        self.fc_source_index = needed - 1
        self.rois_at_a_time: int | None = None
        self.fc_branch: FullyConnectedBranch | None = None
        if fc_source != "none":
            self.fc_branch = FullyConnectedBranch(
                ShapeSpec(
                    channels=conv_dims[needed - 1],
                    height=input_shape.height,
                    width=input_shape.width,
                ),
                mask_size=2 * input_shape.height,
                norm=norm,
                relu=fc_relu,
            )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        return {
            **super().from_config(cfg, input_shape),
            **fusion_from_config(cfg),
            "fc_source": cfg.MODEL.FC_FUSION.SOURCE,
            "fc_combination": cfg.MODEL.FC_FUSION.COMBINATION,
            "fc_relu": cfg.MODEL.FC_FUSION.RELU,
        }

    def forward(self, x: Levels, instances: list[Instances]) -> MaskHeadOutput:
        """
        Args:
            x: RoI features of L levels, each (R, C, H, W).
            instances: R instances in total, grouped by image. In training, foreground proposals
                with ``gt_classes`` and ``gt_masks``; at inference, detections with
                ``pred_classes``.

        Returns:
            In training, a dict with "loss_mask". At inference, ``instances`` with the additional
            field ``pred_masks``: probabilities, (R_i, 1, 2 H, 2 W).
        """
        # detectron2's loss and inference functions treat a single mask per RoI as class-agnostic,
        # so it is enough to predict the mask of each RoI's class.
        if self.training:
            logits = self.layers(x, torch.cat([i.gt_classes for i in instances]))
            loss = mask_rcnn_loss(logits.float(), instances, self.vis_period)
            return {"loss_mask": loss * self.loss_weight}
        logits = self.layers(x, torch.cat([i.pred_classes for i in instances]))
        mask_rcnn_inference(logits.float(), instances)
        return instances

    def layers(self, x: Levels, classes: Tensor | None = None) -> Tensor:
        """
        Args:
            x: RoI features of L levels, each (R, C, H, W).
            classes: (R,), the class to predict a mask of for each RoI; None for all classes.

        Returns:
            Mask logits, (R, num_classes, 2 H, 2 W), or (R, 1, 2 H, 2 W) with ``classes``.
        """
        fc_logits: Tensor | None = None
        features: Levels = x
        for index, layer in enumerate(self):  # TorchScript does not support lists of modules
            if index < self.num_convs:
                features = layer(features)
                if self.fc_branch is not None and index == self.fc_source_index:
                    fc_logits = self.fc_branch(features)
        assert isinstance(features, Tensor)
        logits = self._predict(features, classes)
        if fc_logits is None:
            return logits
        if self.fc_combination == "sum":
            return logits + fc_logits
        if self.fc_combination == "product":
            return logits * fc_logits
        return torch.maximum(logits, fc_logits)

    def _predict(self, x: Tensor, classes: Tensor | None) -> Tensor:
        """Apply the deconvolution and the predictor, for all classes or one class per RoI."""
        if classes is None or self.predictor.out_channels == 1:
            return self.predictor(self.deconv_relu(self.deconv(x)))
        if torch.jit.is_scripting():
            return self._predict_classes(x, classes)
        return self._predict_in_parts(x, classes)

    def _predict_in_parts(self, x: Tensor, classes: Tensor) -> Tensor:
        parts = self.rois_at_a_time
        if parts is None or not x.is_cpu or is_tracing() or len(x) == 0:
            return self._predict_classes(x, classes)
        # The upsampled maps are by far the largest of the head. Those of a few RoIs fit into the
        # CPU cache, and recomputing them in the backward pass is faster than loading them.
        return torch.cat(
            [
                checkpoint(self._predict_classes, *part, use_reentrant=False)
                if torch.is_grad_enabled()
                else self._predict_classes(*part)
                for part in zip(x.split(parts), classes.split(parts))
            ]
        )

    def _predict_classes(self, x: Tensor, classes: Tensor) -> Tensor:
        x = F.relu_(self.deconv(x))
        bias = self.predictor.bias
        assert bias is not None
        weight = self.predictor.weight.flatten(1)[classes]
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2).transpose(1, 2)
        logits = torch.bmm(weight[:, None], pixels) + bias[classes][:, None, None]
        return logits.view(x.shape[0], 1, x.shape[2], x.shape[3])


def _conv(in_channels: int, out_channels: int, norm: Norm) -> Conv2d:
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        padding=1,
        bias=norm == "",
        norm=get_norm(norm, out_channels),
        activation=nn.ReLU(),
    )
    weight_init.c2_msra_fill(conv)
    return conv
