"""Convolutions over large feature maps, whose gradient by the weight oneDNN computes slowly.

Its kernels go through the whole map once for each block of channels. A map that does not fit into
the cache comes from memory every time: on 256 channels of 200 x 272 pixels they do a half of the
multiply-adds a second that the forward pass does with AVX-512, a sixth with AVX2, and with stride 2
a sixth and an eighth.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .capability import has_avx2_only, has_avx512

_MEGABYTE = 2**20
# As much of the input as stays in the cache beside the gradient of the output.
_STRIP_BYTES = 4 * _MEGABYTE
# Smaller maps, of one image, gain nothing.
_LARGE_WITH_AVX512, _LARGE_WITH_AVX2 = 8 * _MEGABYTE, 2 * _MEGABYTE


def has_slow_gradient(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether :func:`conv2d` computes the gradient by the weight of ``conv`` sooner than PyTorch.

    Args:
        x: what the convolution is about to read, (N, C, H, W).
        conv: padded by half of its kernel.
    """
    if not (x.is_cpu and torch.is_grad_enabled() and conv.weight.requires_grad):
        return False
    if conv.groups != 1 or conv.dilation != (1, 1) or conv.kernel_size == (1, 1):
        return False
    if not x.is_contiguous(memory_format=torch.channels_last) or torch.compiler.is_compiling():
        return False
    single = torch.promote_types(x.dtype, conv.weight.dtype) == torch.float32
    bytes_of_image = x[0].numel() * x.element_size()
    if has_avx512():
        return single and bytes_of_image > _LARGE_WITH_AVX512
    return single and has_avx2_only() and bytes_of_image > _LARGE_WITH_AVX2


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """:func:`torch.nn.functional.conv2d` with a faster gradient by the weight.

    Args:
        x: (N, C, H, W), channels-last.
        weight: (O, C, KH, KW).
        bias: (O,).
        stride: down and to the right.
        padding: above and below, left and right.

    Returns:
        (N, O, H', W').
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    output: Tensor = _Conv2d.apply(x, weight, bias, stride, padding)
    return output


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        by_x = by_weight = by_bias = None
        if needs_x:
            by_x = nn.grad.conv2d_input(x.shape, weight, gradient, ctx.stride, ctx.padding)
        if needs_weight:
            compute = _by_products if has_avx2_only() else _by_strips
            by_weight = compute(x, weight, gradient, ctx.stride, ctx.padding)
        if needs_bias:
            by_bias = gradient.sum((0, 2, 3))
        return by_x, by_weight, by_bias, None, None


def _by_strips(
    x: Tensor,
    weight: Tensor,
    gradient: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
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
            total += nn.grad.conv2d_weight(
                strip,
                weight.shape,
                gradient[image : image + 1, :, first:last],
                stride,
                (0, padding[1]),
            )
    return total.to(weight.dtype)


def _by_products(
    x: Tensor,
    weight: Tensor,
    gradient: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """The gradient by the weight, a matrix product over all pixels for each tap of the kernel."""
    images, channels, height, width = x.shape
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
