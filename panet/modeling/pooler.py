"""Adaptive feature pooling: RoIAlign of every RoI on every level (PANet, section 3.2)."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler, convert_boxes_to_pooler_format
from detectron2.structures import Boxes
from torch import Tensor, nn
from torchvision.ops import roi_align

from panet.utils.choices import check_choice

from .cpu.roi_align import Grid, gather_roi_align
from .cpu.tracing import is_tracing

POOLER_TYPES = {"ROIAlign": False, "ROIAlignV2": True}
"""Supported values of ``POOLER_TYPE``; True for those that shift boxes by half a pixel."""

PoolLevel = Callable[[Tensor, Tensor, Grid], Tensor]
"""Pools RoIs (R, 5) from a level (N, C, H, W) on a grid, and returns (R, C, bins, bins)."""

if TYPE_CHECKING:
    Levels = Tensor | Sequence[Tensor]
else:
    # TorchScript evaluates annotations and requires a single return type for poolers.
    Levels = Tensor


class AssignedLevelPooler(nn.Module):
    """detectron2's pooler, which pools every RoI from the single level assigned to it by its size.

    This is the baseline without adaptive feature pooling (PANet, section 3.2). The output has a
    leading axis of length 1, so that heads can treat it like the output of
    :class:`AllLevelPooler`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """
        Args:
            args, kwargs: see :class:`detectron2.modeling.poolers.ROIPooler`.
        """
        super().__init__()
        self.pooler = ROIPooler(*args, **kwargs)

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """
        Args:
            x: feature maps from fine to coarse, each (N, C, H_l, W_l).
            box_lists: boxes of N images in input image pixels, R in total.

        Returns:
            (1, R, C, output_size, output_size).
        """
        # ROIPooler would round the boxes to the precision of the features.
        dtype = torch.promote_types(x[0].dtype, torch.float32)
        return self.pooler([level.to(dtype) for level in x], box_lists)[None].to(x[0].dtype)


class PooledLevels(Sequence[Tensor]):
    """The RoI features of L levels, each (R, C, bins, bins), pooled lazily on access.

    The first layer of a head reads one level at a time. Pooling a level on access means that the
    levels do not have to be kept in memory together, and that training can pool a level again in
    the backward pass instead of storing it.

    The object can be used like the tensor (L, R, C, bins, bins) returned by :meth:`stack`: it has
    the tensor's shape, arithmetic operators and public methods, and PyTorch functions accept it.
    All of these pool all levels again, except indexing by level, shape, dtype and device.
    """

    def __init__(
        self, x: Sequence[Tensor], rois: Tensor, grids: Sequence[Grid], pool: PoolLevel
    ) -> None:
        """
        Args:
            x: L feature maps, each (N, C, H_l, W_l).
            rois: (R, 5): batch index, x0, y0, x1, y1 in input image pixels.
            grids: sampling grid of each level. ``samples`` 0 means one sample per pixel of a bin.
            pool: function that pools ``rois`` from one level on its grid.
        """
        self.x = x
        self.rois = rois
        self.grids = grids
        self.pool = pool

    def __len__(self) -> int:
        return len(self.grids)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> "PooledLevels": ...
    @overload
    def __getitem__(self, index: Any) -> Any: ...
    def __getitem__(self, index: Any) -> "Tensor | PooledLevels":
        if isinstance(index, slice):
            return PooledLevels(self.x[index], self.rois, self.grids[index], self.pool)
        if isinstance(index, int):
            return self.pool(self.x[index], self.rois, self.grids[index])
        return self.stack()[index]

    def stack(self) -> Tensor:
        """Pool all levels and return them as one tensor, (L, R, C, bins, bins)."""
        return torch.stack(list(self))

    def split_rois(self, size: int) -> "Iterator[PooledLevels]":
        """Yield chunks of at most ``size`` RoIs. Without RoIs, yield one empty chunk."""
        for rois in self.rois.split(size):
            yield PooledLevels(self.x, rois, self.grids, self.pool)

    @property
    def shape(self) -> torch.Size:
        """(L, R, C, bins, bins)."""
        bins = self.grids[0].bins
        return torch.Size([len(self), len(self.rois), self.x[0].shape[1], bins, bins])

    def size(self, dim: int | None = None) -> Any:
        """Return the shape or one of its elements, like :meth:`torch.Tensor.size`."""
        return self.shape if dim is None else self.shape[dim]

    @property
    def dtype(self) -> torch.dtype:
        return self.x[0].dtype

    @property
    def device(self) -> torch.device:
        return self.x[0].device

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(Tensor, name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.stack(), name)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return func(*_stacked(args), **_stacked(kwargs or {}))

    def __add__(self, other: Any) -> Tensor:
        return self.stack() + other

    def __sub__(self, other: Any) -> Tensor:
        return self.stack() - other

    def __rsub__(self, other: Any) -> Tensor:
        return other - self.stack()

    def __mul__(self, other: Any) -> Tensor:
        return self.stack() * other

    def __truediv__(self, other: Any) -> Tensor:
        return self.stack() / other

    __radd__ = __add__
    __rmul__ = __mul__


def _stacked(value: Any) -> Any:
    """Replace every :class:`PooledLevels` in nested lists, tuples and dicts with its stack."""
    if isinstance(value, PooledLevels):
        return value.stack()
    if isinstance(value, list):
        return [_stacked(x) for x in value]
    if isinstance(value, tuple):
        return tuple(_stacked(x) for x in value)
    if isinstance(value, dict):
        return {key: _stacked(x) for key, x in value.items()}
    return value


def pool_level(x: Tensor, rois: Tensor, grid: Grid) -> Tensor:
    """Pool RoIs from one level with torchvision's RoIAlign.

    Args:
        x: feature map, (N, C, H, W).
        rois: (R, 5), see :class:`PooledLevels`.
        grid: sampling grid.

    Returns:
        (R, C, bins, bins) in the dtype of ``x``.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    # torchvision would make a second copy of a channels-last map.
    maps = x.to(dtype, memory_format=torch.contiguous_format)
    pooled = roi_align(maps, rois.to(dtype), grid.bins, grid.scale, grid.samples, grid.aligned)
    return pooled.to(x.dtype)


def pool_level_on_cpu(x: Tensor, rois: Tensor, grid: Grid) -> Tensor:
    """Like :func:`pool_level`, but with :func:`gather_roi_align` on a CPU if possible."""
    # The gather needs the same number of samples for every RoI. On CUDA, torchvision's RoIAlign
    # is not the bottleneck of the model.
    if grid.samples == 0 or not x.is_cpu or is_tracing():
        return pool_level(x, rois, grid)
    return gather_roi_align(x, rois.to(torch.promote_types(x.dtype, torch.float32)), grid)


class AllLevelPooler(nn.Module):
    """Adaptive feature pooling: RoIAlign of every RoI on all levels (PANet, section 3.2).

    The pooled levels are fused by :class:`FusedFirstLayer` in the box and mask heads.
    """

    grids: list[Grid]
    _pool_level: PoolLevel = staticmethod(pool_level)

    def __init__(
        self,
        output_size: int,
        scales: Sequence[float],
        sampling_ratio: int,
        pooler_type: str = "ROIAlignV2",
        batched: bool = False,
    ) -> None:
        """
        Args:
            output_size: height and width of the output, in bins.
            scales: for each level, its size divided by the size of the input image.
            sampling_ratio: samples along each side of a bin; 0 for one sample per pixel of a bin.
            pooler_type: "ROIAlignV2", or "ROIAlign" for the legacy version without the half-pixel
                shift.
            batched: return all levels in one tensor. On CUDA they are computed by a single Triton
                kernel if Triton is installed.

        Raises:
            UserError: if ``pooler_type`` is unknown.
        """
        super().__init__()
        check_choice("POOLER_TYPE for adaptive feature pooling", pooler_type, POOLER_TYPES)
        self.grids = [
            Grid(output_size, sampling_ratio, scale, POOLER_TYPES[pooler_type]) for scale in scales
        ]
        self.batched = batched

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Levels:
        """
        Args:
            x: L feature maps, one for each scale, each (N, C, H_l, W_l).
            box_lists: boxes of N images in input image pixels, R in total.

        Returns:
            RoI features of L levels, each (R, C, output_size, output_size), as
            :class:`PooledLevels`, or as one tensor if ``batched`` or in TorchScript.
        """
        rois = convert_boxes_to_pooler_format(box_lists)
        if torch.jit.is_scripting():
            return torch.stack([pool_level(x[i], rois, grid) for i, grid in enumerate(self.grids)])
        levels = PooledLevels(x, rois, self.grids, self._pool_level)
        if not self.batched:
            return levels
        use_triton = x[0].is_cuda and x[0].dtype != torch.float64
        triton_roi_align = _load_triton_roi_align() if use_triton else None
        if triton_roi_align is None:
            return levels.stack()
        return triton_roi_align(x, rois, self.grids)


class FastAllLevelPooler(AllLevelPooler):
    """An :class:`AllLevelPooler` that uses :func:`gather_roi_align`, many times faster on a CPU."""

    _pool_level = staticmethod(pool_level_on_cpu)

    @classmethod
    def of(cls, pooler: AllLevelPooler) -> "FastAllLevelPooler":
        """Create a pooler with the grids of ``pooler``."""
        grid = pooler.grids[0]
        fast = cls(grid.bins, [], grid.samples, batched=pooler.batched)
        fast.grids = pooler.grids
        return fast


@functools.cache
def _load_triton_roi_align() -> Callable[..., Tensor] | None:
    """Import the Triton kernel on first use, which takes a second; None without Triton."""
    try:
        from .triton_roi_align import triton_roi_align
    except (ImportError, AttributeError):  # AttributeError: Triton before 3.3
        return None
    return triton_roi_align


def build_pooler(
    cfg: CfgNode, head_cfg: CfgNode, input_shape: dict[str, ShapeSpec]
) -> AllLevelPooler | AssignedLevelPooler:
    """Build the pooler of one head.

    Args:
        cfg: the full config.
        head_cfg: the config of the head, ``MODEL.ROI_BOX_HEAD`` or ``MODEL.ROI_MASK_HEAD``.
        input_shape: shapes of the feature maps by name.
    """
    adaptive = cfg.MODEL.ADAPTIVE_POOLING
    arguments: dict[str, Any] = {
        "output_size": head_cfg.POOLER_RESOLUTION,
        "scales": [1.0 / input_shape[f].stride for f in cfg.MODEL.ROI_HEADS.IN_FEATURES],
        "sampling_ratio": head_cfg.POOLER_SAMPLING_RATIO,
        "pooler_type": head_cfg.POOLER_TYPE,
    }
    if not adaptive.ENABLED:
        return AssignedLevelPooler(**arguments)
    return AllLevelPooler(**arguments, batched=adaptive.BATCHED)
