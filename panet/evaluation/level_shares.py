"""Source levels of the features of adaptive feature pooling (Figure 3 of the paper)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.poolers import assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import Tensor

from panet.modeling import AllLevelPooler, FusedFirstLayer
from panet.modeling.pooler import PooledLevels
from panet.utils.errors import UserError

# FPN assigns a box of this size, in pixels, to this level.
_CANONICAL_SIZE, _CANONICAL_LEVEL = 224, 4


@dataclass(frozen=True)
class LevelShares:
    """Number of features taken from each of L levels, for boxes grouped by their FPN level.

    A feature is an element of the first layer's output after the maximum over the levels. It is
    attributed to the level with the largest value, on ties to the finest. Features that are 0 in
    all levels after the ReLU are not counted.

    Attributes:
        levels: names of the levels, from fine to coarse.
        boxes: (L,), number of boxes in each group.
        features: (L, L), number of features by group (row) and source level (column).
    """

    levels: tuple[str, ...]
    boxes: npt.NDArray[np.int64]
    features: npt.NDArray[np.int64]

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """(L, L), share of each level in each group's features; NaN for groups without features."""
        total = self.features.sum(axis=1, keepdims=True)
        return np.divide(
            self.features, total, out=np.full(self.features.shape, np.nan), where=total > 0
        )


def count_level_shares(
    model: GeneralizedRCNN,
    batches: Iterable[list[dict[str, Any]]],
    head: Literal["box", "mask"] = "box",
) -> LevelShares:
    """Count the features taken from each level during inference.

    Args:
        model: model in evaluation mode that max-fuses the levels after the first layer.
        batches: model inputs in detectron2's format.
        head: "box", whose boxes are the proposals (in a cascade: the first stage), or "mask",
            whose boxes are the detections.

    Raises:
        UserError: if the model lacks this head, or the head fuses levels differently.
    """
    pooler, first_layer = _max_fusing_head(model, head)
    levels = tuple(getattr(model.roi_heads, f"{head}_in_features"))
    finest, coarsest = (round(-math.log2(pooler.grids[i].scale)) for i in (0, -1))
    boxes = torch.zeros(len(levels), dtype=torch.int64)
    features = torch.zeros(len(levels), len(levels), dtype=torch.int64)

    def count(layer: FusedFirstLayer, inputs: tuple[PooledLevels], _output: Tensor) -> None:
        (pooled,) = inputs
        rois = [Boxes(pooled.rois[:, 1:])]
        groups = assign_boxes_to_levels(rois, finest, coarsest, _CANONICAL_SIZE, _CANONICAL_LEVEL)
        sources = layer.sources(pooled).flatten(1)
        counts = torch.stack([(sources == i).sum(dim=1) for i in range(len(levels))], dim=1)
        boxes.add_(groups.bincount(minlength=len(levels)).cpu())
        features.index_add_(0, groups.cpu(), counts.cpu())

    handle = first_layer.register_forward_hook(count)
    try:
        with torch.no_grad():
            for batch in batches:
                model.inference(batch, do_postprocess=False)
    finally:
        handle.remove()
    return LevelShares(levels, boxes.numpy(), features.numpy())


def _max_fusing_head(
    model: GeneralizedRCNN, head: Literal["box", "mask"]
) -> tuple[AllLevelPooler, FusedFirstLayer]:
    """Return the pooler and first layer of a head that max-fuses all levels after that layer."""
    roi_heads = getattr(model, "roi_heads", None)
    pooler = getattr(roi_heads, f"{head}_pooler", None)
    if pooler is None:
        raise UserError(
            f"The model has no {head} head; use a configuration with "
            "MODEL.META_ARCHITECTURE 'GeneralizedRCNN'"
            f"{' and MODEL.MASK_ON True' if head == 'mask' else ''}."
        )
    if not isinstance(pooler, AllLevelPooler):
        raise UserError(
            f"The {head} head does not pool from all levels; it must have MODEL.ROI_HEADS.NAME "
            "'PANetROIHeads' or 'CascadePANetROIHeads' and MODEL.ADAPTIVE_POOLING.ENABLED True."
        )
    modules = getattr(roi_heads, f"{head}_head").modules()
    first_layer = next(module for module in modules if isinstance(module, FusedFirstLayer))
    for key, value, needed in (
        ("FUSION", first_layer.fusion, "max"),
        ("POSITION", first_layer.fusion_position, "after"),
    ):
        if value != needed:
            raise UserError(
                f"MODEL.ADAPTIVE_POOLING.{key} is {value!r}; the source level of a feature is only "
                f"defined for {needed!r}."
            )
    return pooler, first_layer
