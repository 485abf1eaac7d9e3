"""Fusion of what was pooled from the levels, around the first parameter layer (section 3.2)."""

import copy
import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from .choices import check_choice

_FUSIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"max": torch.maximum, "sum": torch.add}


def fuse_levels(levels: Iterable[Tensor], operation: str) -> Tensor:
    """Element-wise maximum or sum of tensors of one shape."""
    return functools.reduce(_FUSIONS[operation], levels)


def fusion_from_config(cfg: CfgNode) -> dict[str, Any]:
    """The arguments that a head passes on to :class:`FusedFirstLayer`."""
    adaptive = cfg.MODEL.ADAPTIVE_POOLING
    return {
        "num_levels": len(cfg.MODEL.ROI_HEADS.IN_FEATURES) if adaptive.ENABLED else 1,
        "fusion": adaptive.FUSION,
        "fusion_position": adaptive.POSITION,
    }


class FusedFirstLayer(nn.Module):
    """The first parameter layer of a head, a copy of its own for each level, and the fusion.

    Each of the L levels goes through its own layer, normalization and ReLU included, and the
    results are fused element by element. Fused before the first layer instead (an ablation,
    Table 4 of the paper), the levels share one.
    """

    def __init__(
        self,
        layer: nn.Module,
        num_levels: int,
        initialize: Callable[[nn.Module], None],
        activation: nn.Module | None = None,
        operation: str = "max",
        position: str = "after",
    ) -> None:
        """
        Args:
            layer: the layer to make copies of.
            num_levels: L, the number of levels pooled from.
            initialize: called with each copy, so that they do not start from the same weights.
            activation: applied to the output of each copy, if they have none themselves.
            operation: "max" or "sum".
            position: "after" the first layer, or "before" it.

        Raises:
            ValueError: if ``operation`` or ``position`` is neither of its two.
        """
        super().__init__()
        self.operation = check_choice("MODEL.ADAPTIVE_POOLING.FUSION", operation, _FUSIONS)
        self.position = check_choice(
            "MODEL.ADAPTIVE_POOLING.POSITION", position, ("after", "before")
        )
        copies = num_levels if position == "after" else 1
        self.levels = nn.ModuleList(copy.deepcopy(layer) for _ in range(copies))
        for level in self.levels:
            initialize(level)
        self.activation = activation or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: what was pooled from each level, (L, R, ...).

        Returns:
            (R, ...), in the shape that one layer gives.
        """
        if self.position == "before":
            return self.activation(self.levels[0](fuse_levels(x, self.operation)))
        outputs = (
            self.activation(layer(level)) for layer, level in zip(self.levels, x, strict=True)
        )
        return fuse_levels(outputs, self.operation)
