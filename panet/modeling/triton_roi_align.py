"""RoIAlign on all levels of a pyramid with one Triton kernel for forward and backward."""

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton import language as tl

from .cpu.roi_align import Grid

# One warp per bin, 8 channels per thread.
_BIN_BLOCK = 4
_CHANNEL_BLOCK = 256


def triton_roi_align(x: Sequence[Tensor], rois: Tensor, grids: Sequence[Grid]) -> Tensor:
    """``torchvision.ops.roi_align`` of every RoI on each of L levels.

    Coordinates and sums are in single precision for all dtypes of ``x``. The gradient is
    accumulated with atomic operations, so its last bits are not deterministic.

    Args:
        x: feature maps, each (N, C, H_l, W_l), all in float32, float16 or bfloat16. Maps that
            are not channels-last are copied.
        rois: (R, 5): batch index, x0, y0, x1, y1 in input image pixels. Gets no gradient.
        grids: sampling grid of each level. ``samples`` 0 means one sample per pixel of a bin.
            Grids may differ in scale only.

    Returns:
        (L, R, C, bins, bins) in the dtype of ``x``, every level channels-last; zero for RoIs with
        non-finite coordinates.

    Raises:
        ValueError: if the number of grids is not L, or if grids differ in more than scale.
    """
    if len(grids) != len(x) or len({grid._replace(scale=1.0) for grid in grids}) != 1:
        raise ValueError(
            f"{len(x)} levels need {len(x)} grids that differ in scale only; got {grids}."
        )
    pooled: Tensor = _TritonRoIAlign.apply(rois.float().contiguous(), grids, *x)
    return pooled


class _TritonRoIAlign(torch.autograd.Function):
    """Saves only the RoIs for the backward pass, not the features."""

    @staticmethod
    def forward(ctx: Any, rois: Tensor, grids: Sequence[Grid], *x: Tensor) -> Tensor:
        ctx.save_for_backward(rois)
        ctx.grids, ctx.shapes = grids, [level.shape for level in x]
        bins, channels = grids[0].bins, x[0].shape[1]
        pooled = x[0].new_empty(len(x), len(rois), bins, bins, channels)
        maps = [level.contiguous(memory_format=torch.channels_last) for level in x]
        _launch(maps, rois, pooled, grids, backward=False)
        return pooled.permute(0, 1, 4, 2, 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (rois,) = ctx.saved_tensors
        numel = sum(shape.numel() for shape in ctx.shapes)
        sums = torch.zeros(numel, dtype=torch.float32, device=gradient.device)
        pooled = gradient.permute(0, 1, 3, 4, 2).contiguous()
        _launch(_split(sums, ctx.shapes), rois, pooled, ctx.grids, backward=True)
        return None, None, *_split(sums.to(gradient.dtype), ctx.shapes)


def _split(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Split a flat tensor into channels-last views of ``shapes``, each (N, C, H, W)."""
    parts = flat.split([shape.numel() for shape in shapes])
    return [
        part.view(images, height, width, channels).permute(0, 3, 1, 2)
        for part, (images, channels, height, width) in zip(parts, shapes, strict=True)
    ]


def _launch(
    maps: Sequence[Tensor], rois: Tensor, pooled: Tensor, grids: Sequence[Grid], backward: bool
) -> None:
    """Run the kernel for all levels at once.

    Args:
        maps: L channels-last maps (N, C, H_l, W_l); read, or accumulated into if ``backward``.
        rois: (R, 5).
        pooled: (L, R, bins, bins, C); written, or read if ``backward``.
    """
    bins, samples, _, aligned = grids[0]
    channels = pooled.shape[-1]
    channel_block = min(triton.next_power_of_2(channels), _CHANNEL_BLOCK)
    blocks = (
        len(rois) * triton.cdiv(bins**2, _BIN_BLOCK),
        len(maps),
        triton.cdiv(channels, channel_block),
    )
    # Triton launches kernels on the current device.
    with torch.cuda.device_of(pooled):
        _kernel[blocks](
            tuple(maps),
            rois,
            pooled,
            # Floats, because Triton specializes kernels on whether integers are multiples of 16.
            tuple(float(level.shape[2]) for level in maps),
            tuple(float(level.shape[3]) for level in maps),
            tuple(grid.scale for grid in grids),
            channels,
            bins,
            samples,
            aligned,
            backward,
            _BIN_BLOCK,
            channel_block,
            enable_fp_fusion=True,
        )


@triton.jit
def _kernel(
    maps: tl.tuple,
    rois: tl.tensor,
    pooled: tl.tensor,
    heights: tl.tuple,
    widths: tl.tuple,
    scales: tl.tuple,
    channels: tl.constexpr,
    bins: tl.constexpr,
    samples: tl.constexpr,
    aligned: tl.constexpr,
    backward: tl.constexpr,
    bin_block: tl.constexpr,
    channel_block: tl.constexpr,
) -> None:
    """Process a block of bins of one RoI and a block of channels on one level."""
    blocks: tl.constexpr = (bins * bins + bin_block - 1) // bin_block
    roi = tl.program_id(0) // blocks
    level = tl.program_id(1)
    bin = tl.program_id(0) % blocks * bin_block + tl.arange(0, bin_block)
    channel = tl.program_id(2) * channel_block + tl.arange(0, channel_block)

    # Tuples cannot be indexed with run-time values.
    pixels, height, width, scale = maps[0], heights[0], widths[0], scales[0]
    for index in tl.static_range(1, len(maps)):
        pixels = tl.where(level == index, maps[index], pixels)
        height = tl.where(level == index, heights[index], height)
        width = tl.where(level == index, widths[index], width)
        scale = tl.where(level == index, scales[index], scale)

    image = tl.load(rois + roi * 5)
    x0, y0 = tl.load(rois + roi * 5 + 1), tl.load(rois + roi * 5 + 2)
    x1, y1 = tl.load(rois + roi * 5 + 3), tl.load(rois + roi * 5 + 4)
    finite = tl.abs(image + x0 + y0 + x1 + y1) < float("inf")
    y_start, y_size, y_samples = _axis(y0, y1, scale, finite, bins, samples, aligned)
    x_start, x_size, x_samples = _axis(x0, x1, scale, finite, bins, samples, aligned)
    y_start += bin // bins * y_size
    x_start += bin % bins * x_size
    count = tl.maximum(y_samples * x_samples, 1).to(tl.float32)

    mask = (bin < bins * bins)[:, None] & (channel < channels)[None, :]
    # Offsets into large batches exceed 32 bits.
    first_bin = (level * (tl.num_programs(0) // blocks) + roi).to(tl.int64) * (bins * bins)
    pooled += (first_bin + bin)[:, None] * channels + channel[None, :]
    if backward:
        values = tl.load(pooled, mask).to(tl.float32) / count
    else:
        values = tl.zeros((bin_block, channel_block), tl.float32)
    row_length = tl.cast(width, tl.int32) * channels
    first_row = image.to(tl.int64) * tl.cast(height, tl.int32)
    pixels += channel[None, :]
    for y_sample in range(y_samples):
        y = y_start + (y_sample + 0.5) * y_size / y_samples
        y_low, y_high, bottom, y_inside = _neighbours(y, height)
        low_row, high_row = (first_row + y_low) * row_length, (first_row + y_high) * row_length
        top = 1.0 - bottom
        for x_sample in range(x_samples):
            x = x_start + (x_sample + 0.5) * x_size / x_samples
            x_low, x_high, right, x_inside = _neighbours(x, width)
            low_column, high_column = x_low * channels, x_high * channels
            left = 1.0 - right
            inside = mask & (y_inside & x_inside)[:, None]
            values = _add(pixels, low_row + low_column, top * left, values, inside, backward)
            values = _add(pixels, low_row + high_column, top * right, values, inside, backward)
            values = _add(pixels, high_row + low_column, bottom * left, values, inside, backward)
            values = _add(pixels, high_row + high_column, bottom * right, values, inside, backward)
    if not backward:
        tl.store(pooled, values / count, mask)


# Return types of helpers are quoted because Triton for Python 3.10 looks up the names in them.
@triton.jit
def _axis(
    start: tl.tensor,
    end: tl.tensor,
    scale: tl.tensor,
    finite: tl.tensor,
    bins: tl.constexpr,
    samples: tl.constexpr,
    aligned: tl.constexpr,
) -> "tuple[tl.tensor, ...]":
    """Return the start of the first bin, the bin size and the samples per bin along one axis."""
    shift: tl.constexpr = 0.5 if aligned else 0.0
    start = start * scale - shift
    extent = end * scale - shift - start
    if not aligned:
        extent = tl.maximum(extent, 1.0)
    # Move non-finite RoIs outside of the map, with an extent from which samples can be computed.
    start = tl.where(finite, start, float("inf"))
    extent = tl.where(finite, extent, 0.0)
    # Exact rounding: a quotient rounded up past an integer would add a sample.
    size = tl.div_rn(extent, float(bins))
    return start, size, samples if samples > 0 else tl.ceil(size).to(tl.int32)


@triton.jit
def _neighbours(position: tl.tensor, length: tl.tensor) -> "tuple[tl.tensor, ...]":
    """Return the two neighboring pixels of each position along one axis, the weight of the second
    one, and whether the position is at most one pixel outside of the map.
    """
    inside = (position >= -1.0) & (position <= length)
    position = tl.minimum(tl.maximum(position, 0.0), length - 1.0)
    low = position.to(tl.int32)
    high = tl.minimum(low + 1, tl.cast(length, tl.int32) - 1)
    return low, high, position - low, inside


@triton.jit
def _add(
    pixels: tl.tensor,
    offset: tl.tensor,
    weight: tl.tensor,
    values: tl.tensor,
    mask: tl.tensor,
    backward: tl.constexpr,
) -> tl.tensor:
    """Add weighted pixels to the values or, if ``backward``, weighted values to the pixels."""
    pixels += offset[:, None]
    weight = weight[:, None]
    if backward:
        tl.atomic_add(pixels, values * weight, mask, sem="relaxed")
    else:
        values += tl.load(pixels, mask, other=0.0) * weight
    return values
