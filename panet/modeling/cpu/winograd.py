"""3x3 convolutions with Winograd's minimal filtering, for CPUs that are bound by MACs.

Four outputs in a row need 6 multiplications instead of 12, and a tile of 4 x 4 outputs needs 36
instead of 144. Input and weight are evaluated as polynomials at five points and infinity and
multiplied pointwise, and the result is interpolated (Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016). The rounding error is about 1e-5 of the largest output
in single precision, a few times that of a direct convolution.

Everything is computed with matrix products. Maps are stored as (H, W, N, C), so that evaluating a
row or a column is one product for all channels of many maps, and so is the multiplication at a
point.
"""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

PATCH = 16
"""Maximum side length in pixels of a patch. Larger maps are cut into patches; smaller maps are
computed several at a time."""

_POINTS = (0.0, 1.0, -1.0, 2.0, -2.0)  # and infinity
_TILE = 4
# Maximum size of the evaluated rows of the maps that are computed at a time.
_CACHE_BYTES = 8 * 2**20


class _Axis(NamedTuple):
    """Matrices that filter a map along one axis, tile by tile.

    Attributes:
        evaluate: (P, inputs), maps pixels to values at points, grouped by point.
        interpolate: (outputs, P), maps products at points to pixels.
        points: index of the point of each of the P rows.
    """

    evaluate: Tensor
    interpolate: Tensor
    points: tuple[int, ...]


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``torch.nn.functional.conv2d(x, weight, bias, padding=1)``.

    Args:
        x: (N, C, H, W), channels-last, in single precision, with H and W at least 2.
        weight: (O, C, 3, 3).
        bias: (O,).

    Returns:
        (N, O, H, W), channels-last.
    """
    images, _, height, width = x.shape
    output = torch.empty(
        (images, len(weight), height, width), dtype=x.dtype, memory_format=torch.channels_last
    )
    convolve_all = _convolve_maps if max(height, width) <= PATCH else _convolve_patches
    convolve_all(x.permute(0, 2, 3, 1), _evaluate_weight(weight), output.permute(0, 2, 3, 1))
    if bias is not None:
        output += bias[:, None, None]
    return output


def _evaluate_weight(weight: Tensor) -> Tensor:
    """Evaluate a weight (O, C, 3, 3) at all pairs of points, (6, 6, O, C)."""
    outputs, channels, _, _ = weight.shape
    powers = torch.tensor([[1.0, p, p * p] for p in _POINTS] + [[0.0, 0.0, 1.0]])
    taps = weight.permute(2, 3, 0, 1).reshape(9, -1)
    values = torch.kron(powers, powers).to(weight.device) @ taps
    return values.view(len(powers), len(powers), outputs, channels)


def _convolve_maps(x: Tensor, weight: Tensor, output: Tensor) -> None:
    """Convolve small maps, (N, H, W, C) to (N, H, W, O), several maps at a time."""
    _, height, width, channels = x.shape
    down, right = _plan(height, False), _plan(width, False)
    part = max(1, _CACHE_BYTES // (4 * channels * len(down.points) * width))
    convolve_part = _Filter(weight, down, right, min(part, len(x)))
    for start in range(0, len(x), part):
        maps = x[start : start + part].permute(1, 2, 0, 3)
        output[start : start + part] = convolve_part(maps).permute(2, 0, 1, 3)


def _convolve_patches(x: Tensor, weight: Tensor, output: Tensor) -> None:
    """Convolve large maps, (N, H, W, C) to (N, H, W, O), several rows of patches at a time."""
    _, height, width, channels = x.shape
    side_down, side_right = _patch_side(height), _patch_side(width)
    down, right = _plan(side_down, True), _plan(side_right, True)
    across = -(-width // side_right)
    patches = _CACHE_BYTES // (4 * channels * len(down.points) * (side_right + 2))
    rows = max(1, patches // across)
    convolve_part = _Filter(weight, down, right, rows * across)
    for image, result in zip(x, output):
        for top in range(0, height, rows * side_down):
            bottom = min(top + rows * side_down, height)
            along = -(-(bottom - top) // side_down)
            # Include the neighboring pixels that the outermost outputs read, or zeros.
            strip = image[max(top - 1, 0) : bottom + 1]
            below = top + along * side_down + 1 - min(bottom + 1, height)
            right_of = across * side_right + 1 - width
            strip = F.pad(strip, (0, 0, 1, right_of, int(top == 0), below))
            windows = strip.unfold(0, side_down + 2, side_down)
            windows = windows.unfold(1, side_right + 2, side_right)
            maps = windows.permute(3, 4, 0, 1, 2)
            filtered = convolve_part(maps).permute(2, 0, 3, 1, 4).flatten(2, 3).flatten(0, 1)
            result[top:bottom] = filtered[: bottom - top, :width]


def _patch_side(length: int) -> int:
    """Return the side length of a patch, in whole tiles, that pads ``length`` the least."""
    return min(range(PATCH, PATCH // 2 - 1, -_TILE), key=lambda side: -length % side)


class _Filter:
    """Filters maps stored as (H, W, N, C) in preallocated memory.

    The operating system would have to clear newly allocated memory page by page.
    """

    def __init__(self, weight: Tensor, down: _Axis, right: _Axis, maps: int) -> None:
        """
        Args:
            weight: values of the weight at pairs of points, (6, 6, O, C).
            down, right: matrices of the vertical and the horizontal axis.
            maps: maximum of N.
        """
        self.weight, self.down, self.right = weight, down, right
        # Index, first row and end row of each point.
        first = right.points.index
        self.runs = [(p, first(p), first(p) + right.points.count(p)) for p in set(right.points)]
        outputs, channels = weight.shape[2:]
        height, width = down.evaluate.shape[1], right.evaluate.shape[1]
        rows, columns = len(down.points), len(right.points)
        sizes = {
            "x": height * width * channels,
            "rows": rows * width * channels,
            "values": columns * channels,
            "products": columns * outputs,
            "filtered": rows * len(right.interpolate) * outputs,
            "output": len(down.interpolate) * len(right.interpolate) * outputs,
        }
        self.memory = {name: weight.new_empty(maps * size) for name, size in sizes.items()}

    def __call__(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (H, W, ..., C), N maps in total.

        Returns:
            (H', W', ..., O). The next call overwrites it.
        """
        height, width, *batch, channels = x.shape
        maps = math.prod(batch)
        down, right = self.down, self.right
        outputs, columns_out = self.weight.shape[2], len(right.interpolate)
        pixels = self._take("x", *x.shape).copy_(x)
        rows = self._take("rows", len(down.points), width * maps * channels)
        torch.mm(down.evaluate, pixels.view(height, -1), out=rows)
        rows = rows.view(-1, width, maps * channels)
        filtered = self._take("filtered", len(rows), columns_out, maps * outputs)
        values = self._take("values", len(right.points), maps * channels)
        products = self._take("products", len(right.points), maps * outputs)
        for row, point_down, result in zip(rows, down.points, filtered):
            torch.mm(right.evaluate, row, out=values)
            for point, first, last in self.runs:
                torch.mm(
                    values[first:last].view(-1, channels),
                    self.weight[point_down, point].t(),
                    out=products[first:last].view(-1, outputs),
                )
            torch.mm(right.interpolate, products, out=result)
        output = self._take("output", len(down.interpolate), columns_out * maps * outputs)
        torch.mm(down.interpolate, filtered.view(len(rows), -1), out=output)
        return output.view(-1, columns_out, *batch, outputs)

    def _take(self, name: str, *shape: int) -> Tensor:
        return self.memory[name][: math.prod(shape)].view(shape)


@functools.cache
def _plan(outputs: int, with_neighbours: bool) -> _Axis:
    """Split an axis into tiles of 4 outputs, and a smaller tile for the remainder.

    Args:
        outputs: number of output pixels, at least 2.
        with_neighbours: whether the input has an additional pixel at either end; otherwise these
            pixels are zero.
    """
    starts = list(range(0, outputs, _TILE))
    sizes = [min(_TILE, outputs - start) for start in starts]
    if sizes[-1] == 1:  # avoid a tile of one output: make the last two 3 and 2
        starts[-1], sizes[-2:] = starts[-1] - 1, [_TILE - 1, 2]
    rows: list[tuple[int, Tensor, Tensor]] = []
    for start, size in zip(starts, sizes):
        tile = _tile(size)
        before = torch.zeros(size + 2, outputs + 2, dtype=torch.float64)
        before[:, start : start + size + 2] = tile.evaluate
        after = torch.zeros(outputs, size + 2, dtype=torch.float64)
        after[start : start + size] = tile.interpolate
        rows += zip(tile.points, before, after.t())
    rows.sort(key=lambda row: row[0])
    points = tuple(point for point, _, _ in rows)
    evaluate = torch.stack([before for _, before, _ in rows])
    interpolate = torch.stack([after for _, _, after in rows], dim=1)
    if not with_neighbours:
        evaluate = evaluate[:, 1:-1]
    return _Axis(evaluate.float().contiguous(), interpolate.float().contiguous(), points)


def _tile(size: int) -> _Axis:
    """Compute the matrices of a single tile of ``size`` outputs, in double precision.

    The product of two polynomials with ``size`` and 3 coefficients is interpolated from
    ``size + 2`` points. Transposing this algorithm gives a filter.
    """
    count = size + 2
    finite = torch.tensor(_POINTS[: count - 1], dtype=torch.float64)
    exponents = torch.arange(count)
    powers = torch.cat(
        [finite[:, None] ** exponents, torch.eye(count, dtype=torch.float64)[count - 1 :]]
    )
    interpolate = powers[:, :size].clone()
    interpolate[-1] = torch.eye(size, dtype=torch.float64)[-1]
    points = (*range(count - 1), len(_POINTS))
    return _Axis(torch.linalg.inv(powers).t(), interpolate.t(), points)
