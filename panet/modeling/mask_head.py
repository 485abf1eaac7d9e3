"""The mask branch: adaptive feature pooling and fully-connected fusion (sections 3.2, 3.3)."""

from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from fvcore.nn import weight_init
from torch import Tensor, nn

from .choices import check_choice
from .fusion import FusedFirstLayer, fusion_from_config
from .norms import check_roi_norm

_COMBINATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": torch.add,
    "product": torch.mul,
    "max": torch.maximum,
}


class FullyConnectedBranch(nn.Module):
    """conv4_fc, conv5_fc and one fc layer: a class-agnostic mask from the whole RoI.

    conv4_fc keeps the channels and conv5_fc halves them, both 3x3 with normalization and ReLU.
    """

    def __init__(self, input_shape: ShapeSpec, mask_size: int, norm: str = "") -> None:
        """
        Args:
            input_shape: channels, height and width of the features.
            mask_size: height and width of the mask.
            norm: normalization of the convolutions.
        """
        super().__init__()
        channels = input_shape.channels
        self.conv4_fc = _conv(channels, channels, norm)
        self.conv5_fc = _conv(channels, channels // 2, norm)
        self.fc = nn.Linear(channels // 2 * input_shape.height * input_shape.width, mask_size**2)
        self.mask_size = mask_size
        # Logits start near zero, like those of detectron2's mask predictor.
        nn.init.normal_(self.fc.weight, std=0.001)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (R, C, H, W).

        Returns:
            Mask logits, (R, 1, mask_size, mask_size).
        """
        x = self.conv5_fc(self.conv4_fc(x))
        return self.fc(x.flatten(start_dim=1)).view(-1, 1, self.mask_size, self.mask_size)


@ROI_MASK_HEAD_REGISTRY.register()
class PANetMaskHead(MaskRCNNConvUpsampleHead):
    """detectron2's mask head with its first convolution one for each level, and the FC branch.

    The fully-connected branch leaves the convolutional one after one of its convolutions, conv3
    in the paper, and its logits are combined with those of every class.
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
        fc_source: str = "conv3",
        fc_combination: str = "sum",
        **kwargs: Any,
    ) -> None:
        """
        Args:
            input_shape: channels, height and width of what is pooled from one level.
            num_classes: masks for each RoI, 1 if they are class-agnostic.
            conv_dims: output channels of the convolutions, and last of the deconvolution.
            conv_norm: normalization of the convolutions.
            num_levels: L, the number of levels pooled from.
            fusion: "max" or "sum" of the levels.
            fusion_position: "after" the first layer or "before" it.
            fc_source: the convolution that the fully-connected branch reads, "conv2", "conv3"
                or "conv4"; "none" for no such branch.
            fc_combination: "sum", "product" or "max" of the logits of the two branches.
            kwargs: see ``BaseMaskRCNNHead``.

        Raises:
            ValueError: if a norm, a value of the fusion or of the branch is unknown, if there
                is no convolution, or not the one that the branch should read.
        """
        conv_norm = check_roi_norm("MODEL.ROI_MASK_HEAD.NORM", conv_norm)
        check_choice("MODEL.FC_FUSION.SOURCE", fc_source, ("none", "conv2", "conv3", "conv4"))
        num_convs = len(conv_dims) - 1
        needed = 1 if fc_source == "none" else int(fc_source.removeprefix("conv"))
        if num_convs < needed:
            raise ValueError(
                f"MODEL.ROI_MASK_HEAD.NUM_CONV is {num_convs}; with MODEL.FC_FUSION.SOURCE "
                f"{fc_source!r} it must be at least {needed}."
            )
        super().__init__(
            input_shape, num_classes=num_classes, conv_dims=conv_dims, conv_norm=conv_norm, **kwargs
        )
        self.mask_fcn1 = FusedFirstLayer(
            self.conv_norm_relus[0],
            num_levels,
            initialize=weight_init.c2_msra_fill,
            operation=fusion,
            position=fusion_position,
        )
        self.conv_norm_relus[0] = self.mask_fcn1
        self.fc_combination = check_choice(
            "MODEL.FC_FUSION.COMBINATION", fc_combination, _COMBINATIONS
        )
        self.fc_source_index = needed - 1
        self.fc_branch: FullyConnectedBranch | None = None
        if fc_source != "none":
            self.fc_branch = FullyConnectedBranch(
                ShapeSpec(
                    channels=conv_dims[needed - 1],
                    height=input_shape.height,
                    width=input_shape.width,
                ),
                mask_size=2 * input_shape.height,
                norm=conv_norm,
            )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        return {
            **super().from_config(cfg, input_shape),
            **fusion_from_config(cfg),
            "fc_source": cfg.MODEL.FC_FUSION.SOURCE,
            "fc_combination": cfg.MODEL.FC_FUSION.COMBINATION,
        }

    def layers(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (L, R, C, H, W), what was pooled from each level.

        Returns:
            Mask logits, (R, num_classes, 2 H, 2 W).
        """
        fc_logits = None
        for index, conv in enumerate(self.conv_norm_relus):
            x = conv(x)
            if self.fc_branch is not None and index == self.fc_source_index:
                fc_logits = self.fc_branch(x)
        logits = self.predictor(self.deconv_relu(self.deconv(x)))
        if fc_logits is None:
            return logits
        return _COMBINATIONS[self.fc_combination](logits, fc_logits)


def _conv(in_channels: int, out_channels: int, norm: str) -> Conv2d:
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
