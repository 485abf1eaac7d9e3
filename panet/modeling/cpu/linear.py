"""Fully-connected layers, in single precision by oneDNN.

PyTorch hands matrix products in single precision to MKL, whose kernels for AVX-512 leave half of an
AMD processor unused; oneDNN's use all of it, and with AVX2 are as fast as MKL's.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from panet.compat import onednn
from panet.utils.cpu import HAS_ONEDNN

from .recorded import is_recorded


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``torch.nn.functional.linear(x.flatten(1), weight, bias)``.

    It is computed by oneDNN where that is as fast or faster. Its backward pass keeps ``x`` as it
    is, and not a flattened copy.

    Args:
        x: (R, ...), in_features in all but the first dimension.
        weight: (out_features, in_features).
        bias: (out_features,).

    Returns:
        (R, out_features).
    """
    if not x.is_cpu or is_recorded() or len(x) == 0:
        return F.linear(x.flatten(1), weight, bias)
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    if torch.is_grad_enabled():
        output: Tensor = _Linear.apply(x, weight, bias)
        return output
    return _product(x.flatten(1), weight, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x.flatten(1), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        x, weight = ctx.saved_tensors
        return (
            _product(gradient, weight.t()).view(x.shape) if needs_x else None,
            _product(gradient.t(), x.flatten(1).t()) if needs_weight else None,
            gradient.sum(0) if needs_bias else None,
        )


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """``a @ b.t() + bias``; transposed operands are taken as they are."""
    if HAS_ONEDNN and a.dtype == b.dtype == torch.float32:
        return onednn.linear(a, b, bias)
    return F.linear(a, b, bias)
