"""Wrappers of PyTorch's private oneDNN (MKL-DNN) operators, made for ``torch.compile``.

Seen in PyTorch 2.15.0. The operators are undocumented and may change. The public functions neither
use them nor add to a tensor in place. Remove a function when a public one does the same.
"""

from typing import Any

import torch
from torch import Tensor, nn


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``x @ weight.t() + bias``; transposed operands are not copied.

    Args:
        x: (R, in_features).
        weight: (out_features, in_features).
        bias: (out_features,).

    Returns:
        (R, out_features).
    """
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def relu_of_conv2d(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Compute a convolution followed by ReLU.

    Args:
        conv: convolution with zero padding.
        x: (N, C, H, W), channels-last, without gradient.

    Returns:
        (N, O, H', W').
    """
    output: Tensor = torch.ops.mkldnn._convolution_pointwise(x, *_arguments(conv), "relu", [], "")
    return output


def add_conv2d_(total: Tensor, conv: nn.Conv2d, x: Tensor, *, relu: bool = False) -> Tensor:
    """Add the output of a convolution to ``total`` in place.

    Args:
        total: (N, O, H', W'), channels-last, same dtype as ``x``.
        conv: convolution with zero padding.
        x: (N, C, H, W), channels-last, without gradient.
        relu: apply ReLU to the sum.

    Returns:
        ``total``.
    """
    activation = "relu" if relu else None
    output: Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(
        total, x, *_arguments(conv), "add", 1.0, activation, [], ""
    )
    return output


def _arguments(conv: nn.Conv2d) -> tuple[Any, ...]:
    return conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups
