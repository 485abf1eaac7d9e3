"""PyTorch's operators of oneDNN, which it calls MKL-DNN and names for its compiler alone.

Seen in PyTorch 2.15.0. They have neither documentation nor a promise to stay, and the public
functions neither call them nor compute in place of a summand. A function here can go once a public
one does the same.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


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


def relu_of_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The ReLU of a convolution.

    Args:
        x: (N, C, H, W), channels-last, without gradient.
        weight, bias, stride, padding, dilation, groups: see :func:`torch.nn.functional.conv2d`.

    Returns:
        (N, O, H', W').
    """
    output: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, padding, stride, dilation, groups, "relu", [], ""
    )
    return output


def add_conv2d_(
    total: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    *,
    relu: bool = False,
) -> Tensor:
    """Add a convolution to ``total``, in its memory.

    Args:
        total: (N, O, H', W'), channels-last, in the precision of ``x``.
        x: (N, C, H, W), channels-last, without gradient.
        weight, bias, stride, padding, dilation, groups: see :func:`torch.nn.functional.conv2d`.
        relu: whether to take the ReLU of the sum.

    Returns:
        ``total``.
    """
    output: Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(
        total,
        x,
        *(weight, bias, padding, stride, dilation, groups),
        *("add", 1.0, "relu" if relu else None, [], ""),
    )
    return output
