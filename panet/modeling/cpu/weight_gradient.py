"""The gradient of a convolution by its weight, over feature maps larger than the cache.

oneDNN's kernels go through the whole map once for each block of channels, and a map that does not
fit into the cache comes from memory every time: on 256 channels of 200 x 272 pixels they do 0.6 of
the multiply-adds a second that the forward pass does with AVX-512, a seventh with AVX2, and with
stride 2 a sixth and an eighth.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from panet.utils.cpu import has_avx2_only, has_avx512

Pair = tuple[int, int]
"""Down and to the right, as a stride or a padding."""

_MEGABYTE = 2**20
# As much of the input as stays in the cache beside the gradient of the output.
_STRIP_BYTES = 4 * _MEGABYTE
# Of one image. Smaller maps gain nothing.
_LARGE_WITH_AVX512, _LARGE_WITH_AVX2 = 8 * _MEGABYTE, 2 * _MEGABYTE


def is_slow(x: Tensor) -> bool:
    """Whether oneDNN is slow at the gradient of a convolution of ``x``, (N, C, H, W)."""
    bytes_of_image = x[:1].numel() * x.element_size()
    if has_avx512():
        return bytes_of_image > _LARGE_WITH_AVX512
    return has_avx2_only() and bytes_of_image > _LARGE_WITH_AVX2


def weight_gradient(
    x: Tensor, weight: Tensor, gradient: Tensor, stride: Pair, padding: Pair
) -> Tensor:
    """The gradient by the weight of ``conv2d(x, weight, None, stride, padding)``.

    Over large maps it takes what the CPU does best: with AVX-512 oneDNN's kernels on strips of the
    map, with AVX2 matrix products, which are faster than these kernels there.

    Args:
        x: (N, C, H, W), channels-last.
        weight: (O, C, KH, KW).
        gradient: by the output, (N, O, H', W'), channels-last.
        stride: down and to the right.
        padding: above and below, left and right.

    Returns:
        (O, C, KH, KW).
    """
    if not is_slow(x):
        return conv2d_weight(x, weight.shape, gradient, stride, padding)
    compute = _by_products if has_avx2_only() else _by_strips
    return compute(x, weight, gradient, stride, padding)


def _by_strips(x: Tensor, weight: Tensor, gradient: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """The gradient by the weight, summed over strips of the map that fit into the cache."""
    total = torch.zeros_like(weight, dtype=torch.float32)
    height, rows_out = x.shape[2], gradient.shape[2]
    row_bytes = x[0, :, 0].numel() * x.element_size()
    rows = max(1, _STRIP_BYTES // (row_bytes * stride[0]))
    for image in range(len(x)):
        for first in range(0, rows_out, rows):
            last = min(first + rows, rows_out)
            # What these rows of the output read, some of it padding.
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
    """The gradient by the weight, a matrix product over all pixels for each tap of the kernel."""
    images, channels = x.shape[:2]
    outputs, _, kernel_height, kernel_width = weight.shape
    rows_out, columns_out = gradient.shape[2:]
    total = x.new_zeros(kernel_height, kernel_width, outputs, channels)
    for image in range(images):
        padded = F.pad(
            x[image].permute(1, 2, 0), (0, 0, padding[1], padding[1], padding[0], padding[0])
        )
        if stride == (1, 1):
            # With as many columns as the input has, the taps are rows of one matrix, shifted.
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
