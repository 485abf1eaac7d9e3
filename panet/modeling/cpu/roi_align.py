"""RoIAlign as a weighted sum of gathered pixels, which is several times faster on a CPU."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Grid(NamedTuple):
    """Sampling grid of RoIAlign.

    Attributes:
        bins: height and width of the output.
        samples: samples along each side of a bin. :func:`gather_roi_align` requires at least 1;
            elsewhere 0 means one sample per pixel of a bin.
        scale: size of the feature map divided by the size of the input image.
        aligned: shift boxes by half a pixel, as in ROIAlignV2.
    """

    bins: int
    samples: int
    scale: float
    aligned: bool


def gather_roi_align(x: Tensor, rois: Tensor, grid: Grid) -> Tensor:
    """``torchvision.ops.roi_align`` for channels-last input and output.

    With a fixed number of samples per bin, every output is a weighted sum of 4 samples^2 pixels.
    This is a bag of rows of the feature map, which
    :func:`torch.nn.functional.embedding_bag` sums up. The gradient of a pixel is the weighted sum
    of the gradients of all bins that read it, which is again a bag.

    Args:
        x: feature map, (N, C, H, W).
        rois: (R, 5): batch index, x0, y0, x1, y1 in input image pixels. Gets no gradient.
        grid: sampling grid; ``samples`` must be at least 1.

    Returns:
        (R, C, bins, bins) in the dtype of ``x``; zero for RoIs with non-finite coordinates.
    """
    pooled: Tensor = _GatherRoIAlign.apply(x, rois, grid)
    return pooled


class _GatherRoIAlign(torch.autograd.Function):
    """Saves only the RoIs for the backward pass, not the features or the much larger bags."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rois: Tensor, grid: Grid) -> Tensor:
        ctx.save_for_backward(rois)
        ctx.shape, ctx.grid = x.shape, grid
        pixels, weights = _bags(rois, x.shape, grid)
        # Detach, because embedding_bag would otherwise prepare its own backward pass.
        rows = _rows(x.detach())
        pooled = F.embedding_bag(pixels, rows, mode="sum", per_sample_weights=weights.to(x.dtype))
        return pooled.view(len(rois), grid.bins, grid.bins, x.shape[1]).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (rois,) = ctx.saved_tensors
        images, channels, height, width = ctx.shape
        pixels, weights = _bags(rois, ctx.shape, ctx.grid)
        pixels_in_order, order = pixels.flatten().sort(stable=True)
        all_pixels = torch.arange(images * height * width, dtype=pixels.dtype, device=rois.device)
        rows = F.embedding_bag(
            order // pixels.shape[1],
            _rows(gradient),
            offsets=torch.searchsorted(pixels_in_order, all_pixels),
            mode="sum",
            per_sample_weights=weights.flatten()[order].to(gradient.dtype),
        )
        return rows.view(images, height, width, channels).permute(0, 3, 1, 2), None, None


def _rows(x: Tensor) -> Tensor:
    """Reshape (N, C, H, W) to (N * H * W, C); a view if ``x`` is channels-last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _bags(rois: Tensor, shape: torch.Size, grid: Grid) -> tuple[Tensor, Tensor]:
    """Compute the pixels that each bin sums up, and their weights.

    Returns:
        Indices into the N * H * W pixels and weights, each (R * bins^2, 4 * samples^2).
    """
    _, _, height, width = shape
    batch, x0, y0, x1, y1 = rois.unbind(1)
    y, y_weight = _interpolation(y0, y1, height, grid)
    x, x_weight = _interpolation(x0, x1, width, grid)
    # (R, bins in y, bins in x, pixels in y, pixels in x)
    rows = (batch.to(y.dtype)[:, None, None] * height + y) * width
    pixels = rows[:, :, None, :, None] + x[:, None, :, None, :]
    weights = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    return pixels.flatten(3).flatten(0, 2), weights.flatten(3).flatten(0, 2)


def _interpolation(start: Tensor, end: Tensor, length: int, grid: Grid) -> tuple[Tensor, Tensor]:
    """Compute the two neighboring pixels of every sample along one axis, and their weights.

    Args:
        start, end: (R,), extent of the RoIs in input image pixels.
        length: size of the feature map along the axis.

    Returns:
        Pixel indices and weights, each (R, bins, 2 * samples). Weights are those of linear
        interpolation divided by ``samples``, and zero for samples more than one pixel outside of
        the map.
    """
    shift = 0.5 if grid.aligned else 0.0
    start = start * grid.scale - shift
    extent = end * grid.scale - shift - start
    if not grid.aligned:
        extent = extent.clamp(min=1.0)
    count = grid.bins * grid.samples
    centers = (torch.arange(count, device=start.device, dtype=start.dtype) + 0.5) / count
    position = start[:, None] + extent[:, None] * centers
    inside = (position >= -1.0) & (position <= length)
    position = torch.where(inside, position.clamp(min=0.0, max=length - 1.0), 0.0)
    low = position.floor()
    fraction = position - low
    high = (low + 1).clamp(max=length - 1)
    scaled = inside.to(position.dtype) / grid.samples
    pixels = torch.stack([low, high], dim=-1).int()
    weights = torch.stack([(1.0 - fraction) * scaled, fraction * scaled], dim=-1)
    shape = (len(start), grid.bins, 2 * grid.samples)
    return pixels.view(shape), weights.view(shape)
