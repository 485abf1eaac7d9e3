"""The box branch: fully-connected or heavier head on features pooled from all levels."""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_BOX_HEAD_REGISTRY, FastRCNNConvFCHead
from fvcore.nn import weight_init
from torch import nn

from .fusion import FusedFirstLayer, fusion_from_config
from .norms import check_roi_norm


@ROI_BOX_HEAD_REGISTRY.register()
class PANetBoxHead(FastRCNNConvFCHead):
    """detectron2's convolutions and fc layers, the first of them one for each level, then fused.

    Without convolutions and with two fc layers this is the paper's "2fc" head; with four
    convolutions and one fc layer, its heavier head. Takes features of shape (L, R, C, H, W) and
    returns (R, ``output_shape.channels``).
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        conv_dims: list[int],
        fc_dims: list[int],
        conv_norm: str = "",
        num_levels: int = 4,
        fusion: str = "max",
        fusion_position: str = "after",
    ) -> None:
        """
        Args:
            input_shape: channels, height and width of what is pooled from one level.
            conv_dims: output channels of the convolutions.
            fc_dims: output channels of the fc layers, at least one.
            conv_norm: normalization of the convolutions.
            num_levels: L, the number of levels pooled from.
            fusion: "max" or "sum" of the levels.
            fusion_position: "after" the first layer or "before" it.

        Raises:
            ValueError: if a norm or a value of the fusion is unknown, or ``fc_dims`` is empty.
        """
        if not fc_dims:
            raise ValueError("MODEL.ROI_BOX_HEAD.NUM_FC is 0; the box head needs at least 1.")
        super().__init__(
            input_shape,
            conv_dims=conv_dims,
            fc_dims=fc_dims,
            conv_norm=check_roi_norm("MODEL.ROI_BOX_HEAD.NORM", conv_norm),
        )
        # Serves (L, R, C, H, W) in front of the first layer as well as (R, C, H, W) behind it.
        self.flatten = nn.Flatten(start_dim=-3)
        if conv_dims:
            self.conv1 = FusedFirstLayer(
                self.conv_norm_relus[0],
                num_levels,
                initialize=weight_init.c2_msra_fill,
                operation=fusion,
                position=fusion_position,
            )
        else:
            self.fc1 = FusedFirstLayer(
                self.fcs[0],
                num_levels,
                initialize=weight_init.c2_xavier_fill,
                activation=nn.ReLU(),
                operation=fusion,
                position=fusion_position,
            )
            self.fc_relu1 = nn.Identity()  # comes before the fusion, not after it

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        return {
            **super().from_config(cfg, input_shape),
            **fusion_from_config(cfg),
        }
