"""Adaptive feature pooling: every RoI from every level (section 3.2 of the paper)."""

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

from .cpu.recorded import is_recorded
from .cpu.roi_align import Grid, gather_roi_align

POOLER_TYPES = {"ROIAlign": False, "ROIAlignV2": True}
"""Pooler types of detectron2 that pool from all levels, and whether each aligns by half a pixel."""

PoolLevel = Callable[[Tensor, Tensor, Grid], Tensor]
"""Pools from a level (N, C, H, W) RoIs (R, 5) by a grid, to (R, C, bins, bins)."""

if TYPE_CHECKING:
    Levels = Tensor | Sequence[Tensor]
else:
    # TorchScript reads annotations, and has one type only for what a pooler returns.
    Levels = Tensor


class AssignedLevelPooler(nn.Module):
    """detectron2's pooler, every RoI from the one level that its size assigns it to.

    The output has the leading axis that heads expect of :class:`AllLevelPooler`, of length 1.
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
            box_lists: N sets of boxes in pixels of the input image, R in all.

        Returns:
            (1, R, C, output_size, output_size).
        """
        # It would round the boxes to the features' precision, and so move the samples.
        exact = torch.promote_types(x[0].dtype, torch.float32)
        return self.pooler([level.to(exact) for level in x], box_lists)[None].to(x[0].dtype)


class PooledLevels(Sequence[Tensor]):
    """All RoIs from each of L levels, (R, C, bins, bins) for a level, pooled when asked for.

    The first layer of a head needs one level at a time. So pooled, they need not all be kept,
    and in training they can be pooled again instead.

    It stands in for the tensor (L, R, C, bins, bins), :meth:`stack`, which it has the shape, the
    arithmetic and the public methods of, and which functions of PyTorch take for it. Each of
    them pools anew; only whole levels, their shape, dtype and device come without the stack.
    """

    def __init__(
        self, x: Sequence[Tensor], rois: Tensor, grids: Sequence[Grid], pool: PoolLevel
    ) -> None:
        """
        Args:
            x: L feature maps, each (N, C, H_l, W_l).
            rois: (R, 5): index into the batch, then x0, y0, x1, y1 in pixels of the input image.
            grids: for each level, what to sample; ``samples`` 0 for as many as a bin has pixels.
            pool: called with a level, ``rois`` and its grid to pool from it.
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
        """All levels, (L, R, C, bins, bins)."""
        return torch.stack(list(self))

    def split_rois(self, size: int) -> "Iterator[PooledLevels]":
        """The same levels of at most ``size`` RoIs at a time; of none, once."""
        for rois in self.rois.split(size):
            yield PooledLevels(self.x, rois, self.grids, self.pool)

    @property
    def shape(self) -> torch.Size:
        """(L, R, C, bins, bins)."""
        bins = self.grids[0].bins
        return torch.Size([len(self), len(self.rois), self.x[0].shape[1], bins, bins])

    def size(self, dim: int | None = None) -> Any:
        """The shape, or one element of it, as of a tensor."""
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
    """The same with tensors for :class:`PooledLevels`, in lists, tuples and dicts too."""
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
    """RoIAlign from one level by torchvision.

    Args:
        x: feature map, (N, C, H, W).
        rois: (R, 5), see :class:`PooledLevels`.
        grid: what to sample.

    Returns:
        (R, C, bins, bins) in the dtype of ``x``.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    # It would make a second copy of a map that is channels-last.
    x_exact = x.to(exact, memory_format=torch.contiguous_format)
    pooled = roi_align(x_exact, rois.to(exact), grid.bins, grid.scale, grid.samples, grid.aligned)
    return pooled.to(x.dtype)


def pool_level_on_cpu(x: Tensor, rois: Tensor, grid: Grid) -> Tensor:
    """:func:`pool_level`, on a CPU by a gather where there is one."""
    # It needs a grid that is the same for every RoI. On CUDA, torchvision's own kernel is not
    # what bounds the model.
    if grid.samples == 0 or not x.is_cpu or is_recorded():
        return pool_level(x, rois, grid)
    return gather_roi_align(x, rois.to(torch.promote_types(x.dtype, torch.float32)), grid)


class AllLevelPooler(nn.Module):
    """RoIAlign of every RoI from all levels."""

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
            output_size: height and width of the pooled grid, in bins.
            scales: for each level, its size divided by the input image's.
            sampling_ratio: samples along each side of a bin; 0 for as many as the bin has pixels.
            pooler_type: "ROIAlignV2", or "ROIAlign" for the legacy one without the shift by half
                a pixel.
            batched: return all levels in one tensor, on CUDA computed by one kernel in Triton if
                that is installed.

        Raises:
            ValueError: if ``pooler_type`` is neither of these.
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
            box_lists: N sets of boxes in pixels of the input image, R in all.

        Returns:
            L levels of (R, C, output_size, output_size), as :class:`PooledLevels`, or if
            ``batched`` or in TorchScript as one tensor.
        """
        rois = convert_boxes_to_pooler_format(box_lists)
        if torch.jit.is_scripting():
            return torch.stack([pool_level(x[i], rois, grid) for i, grid in enumerate(self.grids)])
        levels = PooledLevels(x, rois, self.grids, self._pool_level)
        if not self.batched:
            return levels
        is_for_triton = x[0].is_cuda and x[0].dtype != torch.float64
        triton_roi_align = _load_triton_roi_align() if is_for_triton else None
        if triton_roi_align is None:
            return levels.stack()
        return triton_roi_align(x, rois, self.grids)


class FastAllLevelPooler(AllLevelPooler):
    """The same, on a CPU by a gather, which is many times as fast there."""

    _pool_level = staticmethod(pool_level_on_cpu)

    @classmethod
    def of(cls, pooler: AllLevelPooler) -> "FastAllLevelPooler":
        """What pools as ``pooler`` does."""
        grid = pooler.grids[0]
        fast = cls(grid.bins, [], grid.samples, batched=pooler.batched)
        fast.grids = pooler.grids
        return fast


@functools.cache
def _load_triton_roi_align() -> Callable[..., Tensor] | None:
    """The kernel, None without Triton. To import it takes a second, and not everybody has it."""
    try:
        from .triton_roi_align import triton_roi_align
    except (ImportError, AttributeError):  # the latter from versions before 3.3
        return None
    return triton_roi_align


def build_pooler(
    cfg: CfgNode, head_cfg: CfgNode, input_shape: dict[str, ShapeSpec]
) -> AllLevelPooler | AssignedLevelPooler:
    """The pooler of one head.

    Args:
        cfg: the whole configuration.
        head_cfg: its node ``MODEL.ROI_BOX_HEAD`` or ``MODEL.ROI_MASK_HEAD``.
        input_shape: the feature maps, by name.
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
