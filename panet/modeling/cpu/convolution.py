"""2D convolution with the algorithm that is fastest on this CPU."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from panet.utils.cpu import has_avx2_only

from . import winograd
from .tracing import is_tracing
from .weight_gradient import Pair, is_slow, weight_gradient

_WINOGRAD_CHANNELS, _WINOGRAD_PIXELS = 128, 3000
# Minimum of input channels. With fewer, such as the 3 of an image, weight gradients are not
# computed as large matrix products.
_GRADIENT_CHANNELS = 32


def is_improved(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether :func:`conv2d` computes ``conv(x)`` or its gradient faster than PyTorch.

    Args:
        x: (N, C, H, W).
        conv: the convolution. Its norm and activation are ignored.
    """
    return (
        x.is_cpu
        and not is_tracing()
        and x.numel() > 0
        and conv.groups == 1
        and conv.dilation == (1, 1)
        and conv.kernel_size != (1, 1)
        and isinstance(conv.padding, tuple)
        and conv.padding_mode == "zeros"
        and x.is_contiguous(memory_format=torch.channels_last)
        and (
            _is_for_winograd(x, conv.weight, conv.stride, conv.padding)
            or (
                torch.is_grad_enabled()
                and conv.weight.requires_grad
                and conv.in_channels >= _GRADIENT_CHANNELS
                and is_slow(x)
            )
        )
    )


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
    """:func:`torch.nn.functional.conv2d` for inputs for which :func:`is_improved` is true.

    Args:
        x: (N, C, H, W), channels-last.
        weight: (O, C, KH, KW).
        bias: (O,).
        stride: vertical and horizontal stride.
        padding: vertical and horizontal padding.

    Returns:
        (N, O, H', W'), channels-last.
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    if torch.is_grad_enabled():
        output: Tensor = _Conv2d.apply(x, weight, bias, stride, padding)
        return output
    return _convolve(x, weight, bias, stride, padding)


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Pair,
        padding: Pair,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return _convolve(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        by_x = by_weight = by_bias = None
        if needs_x:
            by_x = _input_gradient(x, weight, gradient, ctx.stride, ctx.padding)
        if needs_weight:
            by_weight = weight_gradient(x, weight, gradient, ctx.stride, ctx.padding)
        if needs_bias:
            by_bias = gradient.sum((0, 2, 3))
        return by_x, by_weight, by_bias, None, None


def _is_for_winograd(x: Tensor, weight: Tensor, stride: Any, padding: Any) -> bool:
    """Whether Winograd's algorithm is faster than oneDNN's convolution.

    This is the case where the convolution is bound by MACs. With AVX-512, oneDNN is fast enough
    that it is not.
    """
    outputs, channels, *kernel = weight.shape
    images, _, height, width = x.shape
    pixels = height * width  # per image, because only small images are computed together
    if max(height, width) <= winograd.PATCH:
        pixels *= images
    return (
        has_avx2_only()
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and (kernel, stride, padding) == ([3, 3], (1, 1), (1, 1))
        and min(channels, outputs) >= _WINOGRAD_CHANNELS
        and min(height, width) >= 2
        and pixels >= _WINOGRAD_PIXELS
    )


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
) -> Tensor:
    if _is_for_winograd(x, weight, stride, padding):
        return winograd.convolve(x, weight, bias)
    return F.conv2d(x, weight, bias, stride, padding)


def _input_gradient(
    x: Tensor, weight: Tensor, gradient: Tensor, stride: Pair, padding: Pair
) -> Tensor:
    flipped = weight.flip(2, 3).transpose(0, 1)
    if _is_for_winograd(gradient, flipped, stride, padding):
        return winograd.convolve(gradient, flipped)
    return conv2d_input(x.shape, weight, gradient, stride, padding)
