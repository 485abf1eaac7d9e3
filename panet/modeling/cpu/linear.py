"""Fully-connected layers in single precision by oneDNN.

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


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """:func:`torch.nn.functional.linear`, by oneDNN where that is as fast or faster.

    Args:
        x: (R, in_features).
        weight: (out_features, in_features).
        bias: (out_features,).

    Returns:
        (R, out_features).
    """
    single = x.is_cpu and x.dtype == weight.dtype == torch.float32
    if (
        not single
        or len(x) == 0
        or torch.is_autocast_enabled("cpu")
        or not HAS_ONEDNN
        or torch.compiler.is_compiling()
    ):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled():
        output: Tensor = _Linear.apply(x, weight, bias)
        return output
    return onednn.linear(x, weight, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        x, weight = ctx.saved_tensors
        return (
            onednn.linear(gradient, weight.t()) if needs_x else None,
            onednn.linear(gradient.t(), x.t()) if needs_weight else None,
            gradient.sum(0) if needs_bias else None,
        )
