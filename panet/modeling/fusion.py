"""Fusion of what was pooled from the levels, around the first parameter layer (section 3.2)."""

import copy
import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from panet.utils.choices import check_choice

from .cpu.recorded import is_recorded
from .fully_connected import FullyConnected
from .pooler import Levels

FUSIONS = ("max", "sum")

_NO_LEVEL = 255


def fuse_levels(levels: Iterable[Tensor], operation: str) -> Tensor:
    """Element-wise maximum or sum of tensors of one shape."""
    return functools.reduce(torch.maximum if operation == "max" else torch.add, levels)


def _relu_of_maximum(levels: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """ReLU of the maximum of tensors, and the index of the tensor that each element came from.

    Of equal ones it is the first; where none is above 0, it is ``_NO_LEVEL``.
    """
    levels = iter(levels)
    first = next(levels)
    fused = first.relu()
    source = torch.zeros_like(first, dtype=torch.uint8).masked_fill_(first <= 0, _NO_LEVEL)
    for index, level in enumerate(levels, start=1):
        source.masked_fill_(level > fused, index)
        torch.maximum(fused, level, out=fused)
    return fused, source


class _ReLUOfMaximum(torch.autograd.Function):
    """ReLU of the maximum of tensors, which is the maximum of their ReLUs.

    For its backward pass it keeps one byte an element, which tells the tensor that it came from.
    """

    @staticmethod
    def forward(ctx: Any, *levels: Tensor) -> Tensor:
        fused, source = _relu_of_maximum(levels)
        ctx.save_for_backward(source)
        ctx.num_levels = len(levels)
        return fused

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        (source,) = ctx.saved_tensors
        return tuple(gradient.masked_fill(source != index, 0) for index in range(ctx.num_levels))


def fusion_from_config(cfg: CfgNode) -> dict[str, Any]:
    """The arguments that a head passes on to :class:`FusedFirstLayer`."""
    adaptive = cfg.MODEL.ADAPTIVE_POOLING
    return {
        "num_levels": len(cfg.MODEL.ROI_HEADS.IN_FEATURES) if adaptive.ENABLED else 1,
        "fusion": adaptive.FUSION,
        "fusion_position": adaptive.POSITION,
        "recompute": adaptive.RECOMPUTE,
        "batched": adaptive.BATCHED,
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
        fusion: str = "max",
        fusion_position: str = "after",
        recompute: bool = False,
        batched: bool = False,
    ) -> None:
        """
        Args:
            layer: the layer to make copies of, its normalization included but not its ReLU.
            num_levels: L, the number of levels pooled from.
            initialize: called with each copy, so that they do not start from the same weights.
            fusion: "max" or "sum".
            fusion_position: "after" the first layer, or "before" it.
            recompute: in training, have the backward pass pool the levels again instead of
                keeping what was pooled from them.
            batched: compute the layers of all levels as one batched product, if they are fc layers
                and the levels come in one tensor. Convolutions are too large to gain by it.

        Raises:
            ValueError: if ``fusion`` or ``fusion_position`` is neither of its two.
        """
        super().__init__()
        self.fusion = check_choice("MODEL.ADAPTIVE_POOLING.FUSION", fusion, FUSIONS)
        self.fusion_position = check_choice(
            "MODEL.ADAPTIVE_POOLING.POSITION", fusion_position, ("after", "before")
        )
        self.recompute = recompute
        self.batched = batched and isinstance(layer, FullyConnected)
        copies = num_levels if fusion_position == "after" else 1
        self.levels = nn.ModuleList(copy.deepcopy(layer) for _ in range(copies))
        for level in self.levels:
            initialize(level)

    def forward(self, x: Levels) -> Tensor:
        """
        Args:
            x: what was pooled from each level, L of (R, C, H, W).

        Returns:
            (R, ...), in the shape that one layer gives.
        """
        if not torch.jit.is_scripting():
            return self._forward(x)
        # TorchScript knows neither generators nor autograd functions.
        assert isinstance(x, Tensor)
        if self.fusion_position == "before":
            x = self._fuse(x)[None]
        outputs: list[Tensor] = []
        for index, layer in enumerate(self.levels):
            outputs.append(layer(x[index]).relu())
        return self._fuse(torch.stack(outputs))

    def _fuse(self, x: Tensor) -> Tensor:
        return x.amax(0) if self.fusion == "max" else x.sum(0)

    def _forward(self, x: Levels) -> Tensor:
        recompute = self.recompute and torch.is_grad_enabled()
        if self.fusion_position == "before":
            fused = (
                checkpoint(fuse_levels, x, self.fusion, use_reentrant=False)
                if recompute
                else fuse_levels(x, self.fusion)
            )
            return F.relu_(self.levels[0](fused))
        outputs: Iterable[Tensor]
        if self.batched and isinstance(x, Tensor):
            first: Any = self.levels[0]
            outputs = first.batched(self.levels, x)
        else:
            run = _run_without_keeping_input if recompute else _run
            outputs = (run(layer, x, index) for index, layer in enumerate(self.levels))
        if self.fusion == "sum":
            return fuse_levels(map(F.relu_, outputs), "sum")
        if is_recorded():
            return F.relu(fuse_levels(outputs, "max"))
        if torch.is_grad_enabled():
            output: Tensor = _ReLUOfMaximum.apply(*outputs)
            return output
        # One level after the other, none of them kept.
        return F.relu_(functools.reduce(lambda a, b: torch.maximum(a, b, out=a), outputs))

    @torch.no_grad()
    def sources(self, x: Levels) -> Tensor:
        """The level that each element of the output comes from, if it is fused by "max" "after".

        Args:
            x: what was pooled from each level, L of (R, C, H, W).

        Returns:
            uint8 in the shape of the output: from 0 to L - 1, of equal levels the first; larger
            where all levels are 0 after the ReLU.
        """
        _, source = _relu_of_maximum(layer(x[index]) for index, layer in enumerate(self.levels))
        return source


def _run(layer: nn.Module, x: Levels, index: int) -> Tensor:
    return layer(x[index])


def _run_without_keeping_input(layer: nn.Module, x: Levels, index: int) -> Tensor:
    """``layer(x[index])``, with ``x[index]`` asked for once more by the backward pass."""
    level = x[index]
    address, numel = level.data_ptr(), level.numel()

    # What is saved may be a view of the level.
    def pack(saved: Tensor) -> Tensor | tuple[torch.Size, tuple[int, ...]]:
        is_level = numel > 0 and saved.data_ptr() == address and saved.numel() == numel
        return (saved.shape, saved.stride()) if is_level else saved

    def unpack(packed: Tensor | tuple[torch.Size, tuple[int, ...]]) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        with torch.no_grad():
            return x[index].as_strided(*packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return layer(level)
