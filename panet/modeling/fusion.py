"""Fusion of the pooled levels after the first parameter layer (PANet, section 3.2)."""

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

from .cpu.tracing import is_tracing
from .fully_connected import FullyConnected
from .pooler import Levels

FUSIONS = ("max", "sum")

_NO_LEVEL = 255


def fuse_levels(levels: Iterable[Tensor], operation: str) -> Tensor:
    """Compute the element-wise maximum or sum of tensors of the same shape."""
    return functools.reduce(torch.maximum if operation == "max" else torch.add, levels)


def _relu_of_maximum(levels: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Compute the ReLU of the element-wise maximum, and the index of each element's source tensor.

    Ties go to the first tensor. Where no tensor is positive, the index is ``_NO_LEVEL``.
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
    """ReLU of the element-wise maximum of tensors, which equals the maximum of their ReLUs.

    For the backward pass it saves one byte per element, the index of the source tensor.
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
    """Return the arguments of :class:`FusedFirstLayer` that a head reads from the config."""
    adaptive = cfg.MODEL.ADAPTIVE_POOLING
    return {
        "num_levels": len(cfg.MODEL.ROI_HEADS.IN_FEATURES) if adaptive.ENABLED else 1,
        "fusion": adaptive.FUSION,
        "fusion_position": adaptive.POSITION,
        "recompute": adaptive.RECOMPUTE,
        "batched": adaptive.BATCHED,
    }


class FusedFirstLayer(nn.Module):
    """The first parameter layer of a head, followed by fusion of the levels (PANet, section 3.2).

    Each of the L levels goes through its own copy of the layer, including normalization and
    ReLU, and the results are fused element-wise. If the levels are fused before the first layer
    instead (ablation in Table 4 of the paper), there is a single copy.
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
            layer: the layer to copy, with its normalization but without ReLU.
            num_levels: L, the number of levels.
            initialize: initializes each copy, so that the copies start from different weights.
            fusion: "max" or "sum".
            fusion_position: "after" or "before" the first layer.
            recompute: in training, pool the levels again in the backward pass instead of storing
                them.
            batched: compute the layers of all levels as one batched matrix product, if they are
                fc layers and the levels are given as one tensor. Convolutions are too large to
                benefit.

        Raises:
            UserError: if ``fusion`` or ``fusion_position`` is unknown.
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
            x: RoI features of L levels, each (R, C, H, W).

        Returns:
            Fused features, (R, ...), in the output shape of a single layer.
        """
        if not torch.jit.is_scripting():
            return self._forward(x)
        # TorchScript supports neither generators nor autograd functions.
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
        if is_tracing():
            return F.relu(fuse_levels(outputs, "max"))
        if torch.is_grad_enabled():
            output: Tensor = _ReLUOfMaximum.apply(*outputs)
            return output
        # Reduce level by level, so that only one level is in memory at a time.
        return F.relu_(functools.reduce(lambda a, b: torch.maximum(a, b, out=a), outputs))

    @torch.no_grad()
    def sources(self, x: Levels) -> Tensor:
        """Return the level that each output element comes from, for fusion "max" "after" the layer.

        Args:
            x: RoI features of L levels, each (R, C, H, W).

        Returns:
            uint8 tensor in the shape of the output: a level from 0 to L - 1, the first one if
            levels are equal, or a value >= L where all levels are 0 after ReLU.
        """
        _, source = _relu_of_maximum(layer(x[index]) for index, layer in enumerate(self.levels))
        return source


def _run(layer: nn.Module, x: Levels, index: int) -> Tensor:
    return layer(x[index])


def _run_without_keeping_input(layer: nn.Module, x: Levels, index: int) -> Tensor:
    """Compute ``layer(x[index])`` and evaluate ``x[index]`` again in the backward pass."""
    level = x[index]
    address, numel = level.data_ptr(), level.numel()

    # The saved tensor may be a view of the level.
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
