"""RoI heads with adaptive feature pooling (PANet, section 3.2)."""

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
    """detectron2's ``StandardROIHeads`` with adaptive feature pooling (PANet, section 3.2).

    Box and mask features are pooled from all levels, for :class:`PANetBoxHead` and
    :class:`PANetMaskHead`. Apart from the poolers, everything is inherited.
    """

    # Required by TorchScript, as in detectron2's StandardROIHeads.
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
    """detectron2's ``CascadeROIHeads`` with adaptive feature pooling (PANet, section 3.2).

    Each stage is a :class:`PANetBoxHead` with its own first layers and its own fusion.
    """

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        _check_cascade(cfg)
        return super()._init_box_head(cfg, input_shape)

    def _run_stage(
        self, features: list[Tensor], proposals: list[Instances], stage: int
    ) -> tuple[Tensor, Tensor]:
        # The superclass scales the gradient of the pooled features, but here the head pools them
        # lazily. Pooling is linear, so scaling the gradient of the feature maps is equivalent.
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
    """Raise a readable error where detectron2 would fail an assertion."""
    cascade, first_iou = cfg.MODEL.ROI_BOX_CASCADE_HEAD, cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS[0]
    if not cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
        raise UserError(
            "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG is False; it must be True for a cascade, "
            "whose stages refine a single box per proposal."
        )
    if len(cascade.IOUS) != len(cascade.BBOX_REG_WEIGHTS) or cascade.IOUS[0] != first_iou:
        raise UserError(
            f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS is {cascade.IOUS}; it must have as many values as "
            "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS and start with the value of "
            f"MODEL.ROI_HEADS.IOU_THRESHOLDS, {first_iou}."
        )
