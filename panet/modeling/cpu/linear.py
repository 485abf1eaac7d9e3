"""Fully-connected layers computed by oneDNN in single precision.

PyTorch computes single-precision matrix products with MKL, whose AVX-512 kernels reach only half
of the throughput of AMD processors. oneDNN reaches the full throughput, and is as fast as MKL with
AVX2.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from panet.compat import onednn
from panet.utils.cpu import HAS_ONEDNN

from .tracing import is_tracing


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute ``torch.nn.functional.linear(x.flatten(1), weight, bias)``.

    oneDNN is used where it is at least as fast. ``x`` is saved for the backward pass without
    being flattened, which would copy it.

    Args:
        x: (R, ...) with in_features elements per row.
        weight: (out_features, in_features).
        bias: (out_features,).

    Returns:
        (R, out_features).
    """
    if not x.is_cpu or is_tracing() or len(x) == 0:
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
    """Compute ``a @ b.t() + bias`` without copying transposed operands."""
    if HAS_ONEDNN and a.dtype == b.dtype == torch.float32:
        return onednn.linear(a, b, bias)
    return F.linear(a, b, bias)
