"""RoI heads that pool from all levels."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads

from .pooler import build_pooler


@ROI_HEADS_REGISTRY.register()
class PANetROIHeads(StandardROIHeads):
    """detectron2's heads with the box and mask features pooled for :class:`PANetBoxHead` and
    :class:`PANetMaskHead`.

    Only what is built differs from the superclass; pooling, heads and losses run as they do there.
    """

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        ret = super()._init_box_head(cfg, input_shape)
        ret["box_pooler"] = build_pooler(cfg, cfg.MODEL.ROI_BOX_HEAD, input_shape)
        return ret

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        ret = super()._init_mask_head(cfg, input_shape)
        if ret.get("mask_pooler") is not None:
            ret["mask_pooler"] = build_pooler(cfg, cfg.MODEL.ROI_MASK_HEAD, input_shape)
        return ret
