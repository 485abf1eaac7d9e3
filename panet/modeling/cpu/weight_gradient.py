"""Weight gradient of a convolution on feature maps larger than the CPU cache.

oneDNN's kernels read the whole map once for each block of channels, and a map that does not fit
into the cache is loaded from memory every time. With 256 channels of 200 x 272 pixels, they reach
0.6 of the MACs per second of the forward pass with AVX-512 and 1/7 with AVX2; with stride 2, they
reach 1/6 and 1/8.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from panet.utils.cpu import has_avx2_only, has_avx512

Pair = tuple[int, int]
"""A vertical and a horizontal stride or padding."""

_MEGABYTE = 2**20
# Size of an input strip that fits into the cache together with the output gradient.
_STRIP_BYTES = 4 * _MEGABYTE
# Minimum size of the input of one image. Smaller maps do not benefit.
_LARGE_WITH_AVX512, _LARGE_WITH_AVX2 = 8 * _MEGABYTE, 2 * _MEGABYTE


def is_slow(x: Tensor) -> bool:
    """Whether oneDNN's weight gradient is slow for an input ``x`` of (N, C, H, W)."""
    image_bytes = x[:1].numel() * x.element_size()
    if has_avx512():
        return image_bytes > _LARGE_WITH_AVX512
    return has_avx2_only() and image_bytes > _LARGE_WITH_AVX2


def weight_gradient(
    x: Tensor, weight: Tensor, gradient: Tensor, stride: Pair, padding: Pair
) -> Tensor:
    """Compute the weight gradient of ``conv2d(x, weight, None, stride, padding)``.

    Large maps are processed in strips by oneDNN's kernels with AVX-512, and by matrix products
    with AVX2, where they are faster than oneDNN's kernels.

    Args:
        x: (N, C, H, W), channels-last.
        weight: (O, C, KH, KW).
        gradient: output gradient, (N, O, H', W'), channels-last.
        stride: vertical and horizontal stride.
        padding: vertical and horizontal padding.

    Returns:
        (O, C, KH, KW).
    """
    if not is_slow(x):
        return conv2d_weight(x, weight.shape, gradient, stride, padding)
    compute = _by_products if has_avx2_only() else _by_strips
    return compute(x, weight, gradient, stride, padding)


def _by_strips(x: Tensor, weight: Tensor, gradient: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Sum the weight gradients of strips of the map that fit into the cache."""
    total = torch.zeros_like(weight, dtype=torch.float32)
    height, rows_out = x.shape[2], gradient.shape[2]
    row_bytes = x[0, :, 0].numel() * x.element_size()
    rows = max(1, _STRIP_BYTES // (row_bytes * stride[0]))
    for image in range(len(x)):
        for first in range(0, rows_out, rows):
            last = min(first + rows, rows_out)
            # Input rows that these output rows read, including padding.
            top = first * stride[0] - padding[0]
            bottom = (last - 1) * stride[0] - padding[0] + weight.shape[2]
            strip = x[image : image + 1, :, max(top, 0) : min(bottom, height)]
            above, below = max(-top, 0), max(bottom - height, 0)
            if above or below:
                strip = F.pad(strip, (0, 0, above, below))
            total += conv2d_weight(
                strip,
                weight.shape,
                gradient[image : image + 1, :, first:last],
                stride,
                (0, padding[1]),
            )
    return total.to(weight.dtype)


def _by_products(
    x: Tensor, weight: Tensor, gradient: Tensor, stride: Pair, padding: Pair
) -> Tensor:
    """Compute one matrix product over all pixels for each position in the kernel."""
    images, channels = x.shape[:2]
    outputs, _, kernel_height, kernel_width = weight.shape
    rows_out, columns_out = gradient.shape[2:]
    total = x.new_zeros(kernel_height, kernel_width, outputs, channels)
    for image in range(images):
        padded = F.pad(
            x[image].permute(1, 2, 0), (0, 0, padding[1], padding[1], padding[0], padding[0])
        )
        if stride == (1, 1):
            # With the gradient padded to the columns of the input, the input of every kernel
            # position is the same matrix, shifted by some rows.
            columns = padded.shape[1]
            spread = F.pad(gradient[image].permute(1, 2, 0), (0, 0, 0, columns - columns_out))
            rows = rows_out * columns - (columns - columns_out)
            by_pixel, pixels = spread.view(-1, outputs)[:rows], padded.view(-1, channels)
        else:
            by_pixel = gradient[image].permute(1, 2, 0).reshape(-1, outputs)
        for i in range(kernel_height):
            for j in range(kernel_width):
                if stride == (1, 1):
                    tap = pixels[i * columns + j :][:rows]
                else:
                    tap = padded[i :: stride[0], j :: stride[1]][:rows_out, :columns_out]
                    tap = tap.reshape(-1, channels)
                total[i, j].addmm_(by_pixel.t(), tap)
    return total.permute(2, 3, 0, 1).to(weight.dtype)
