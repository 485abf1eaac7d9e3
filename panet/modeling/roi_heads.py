"""RoI heads that pool from all levels."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads, StandardROIHeads
from detectron2.structures import Instances
from torch import Tensor

from panet.utils.errors import UserError

from .pooler import build_pooler


@ROI_HEADS_REGISTRY.register()
class PANetROIHeads(StandardROIHeads):
    """detectron2's heads with the box and mask features pooled for :class:`PANetBoxHead` and
    :class:`PANetMaskHead`.

    Only what is built differs from the superclass; pooling, heads and losses run as they do there.
    """

    # For TorchScript, as detectron2 annotates its own class.
    mask_on: torch.jit.Final[bool]  # type: ignore[misc]
    keypoint_on: torch.jit.Final[bool]  # type: ignore[misc]

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


@ROI_HEADS_REGISTRY.register()
class CascadePANetROIHeads(PANetROIHeads, CascadeROIHeads):
    """detectron2's Cascade R-CNN whose stages, each a :class:`PANetBoxHead`, pool from all levels.

    Every stage has first layers of its own, and so a fusion of its own.
    """

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        _check_cascade(cfg)
        return super()._init_box_head(cfg, input_shape)

    def _run_stage(
        self, features: list[Tensor], proposals: list[Instances], stage: int
    ) -> tuple[Tensor, Tensor]:
        # The superclass scales the gradient of what was pooled, which is not there yet: levels are
        # pooled when the head asks for them. Pooling is linear in the features, so that scaling
        # their gradient comes to the same.
        if self.training:
            scale = 1.0 / self.num_cascade_stages
            features = [_ScaledGradient.apply(level, scale) for level in features]
        pooled = self.box_pooler(features, [image.proposal_boxes for image in proposals])
        predictions: tuple[Tensor, Tensor] = self.box_predictor[stage](self.box_head[stage](pooled))
        return predictions


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * gradient, None


def _check_cascade(cfg: CfgNode) -> None:
    """Say in one line what detectron2 asserts."""
    cascade, first_iou = cfg.MODEL.ROI_BOX_CASCADE_HEAD, cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS[0]
    if not cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
        raise UserError(
            "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG is False; a cascade needs it to be True, for "
            "its stages hand on one box for each proposal."
        )
    if len(cascade.IOUS) != len(cascade.BBOX_REG_WEIGHTS) or cascade.IOUS[0] != first_iou:
        raise UserError(
            f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS is {cascade.IOUS}; it must have as many values as "
            "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS, the first of them that of "
            f"MODEL.ROI_HEADS.IOU_THRESHOLDS, {first_iou}."
        )
