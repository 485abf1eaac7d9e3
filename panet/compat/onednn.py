"""PyTorch's operators of oneDNN, which it calls MKL-DNN and names for its compiler alone.

Seen in PyTorch 2.15.0. They have neither documentation nor a promise to stay, and the public
functions neither call them nor compute in place of a summand. A function here can go once a public
one does the same.
"""

from typing import Any

import torch
from torch import Tensor, nn


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.t() + bias``; transposed operands are taken as they are.

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
    """The ReLU of a convolution.

    Args:
        conv: with zeros for its padding.
        x: (N, C, H, W), channels-last, without gradient.

    Returns:
        (N, O, H', W').
    """
    output: Tensor = torch.ops.mkldnn._convolution_pointwise(x, *_arguments(conv), "relu", [], "")
    return output


def add_conv2d_(total: Tensor, conv: nn.Conv2d, x: Tensor, *, relu: bool = False) -> Tensor:
    """Add a convolution to ``total``, in its memory.

    Args:
        total: (N, O, H', W'), channels-last, in the precision of ``x``.
        conv: with zeros for its padding.
        x: (N, C, H, W), channels-last, without gradient.
        relu: whether to take the ReLU of the sum.

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
