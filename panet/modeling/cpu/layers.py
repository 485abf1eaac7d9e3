"""Faster versions of detectron2's ``Conv2d`` for training and inference."""

from typing import Any

from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn

from panet.utils.modules import convert_convolution, replace_modules

from .convolution import conv2d, is_improved


class FrozenNormConv2d(Conv2d):
    """detectron2's ``Conv2d`` with its :class:`FrozenBatchNorm2d` folded into the weight.

    Training is equivalent, but the norm needs no pass over the feature map and saves no map for
    the backward pass. Names of parameters and buffers do not change.
    """

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (N, C, H, W).
        """
        weight, bias = folded_parameters(self)
        if is_improved(x, self):
            x = conv2d(x, weight, bias, self.stride, self.padding)
        else:
            x = self._conv_forward(x, weight, bias)
        return x if self.activation is None else self.activation(x)


class FastConv2d(Conv2d):
    """detectron2's ``Conv2d`` with the algorithm that is fastest on this CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (N, C, H, W).
        """
        if not is_improved(x, self):
            return super().forward(x)
        x = conv2d(x, self.weight, self.bias, self.stride, self.padding)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


def folded_parameters(layer: nn.Conv2d | nn.Linear) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of ``layer`` with its norm's running statistics folded in.

    Args:
        layer: layer whose ``norm`` is a ``FrozenBatchNorm2d`` or a batch norm.
    """
    norm: Any = layer.norm
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    bias = -norm.running_mean * scale
    if norm.bias is not None:
        bias = bias + norm.bias
    if layer.bias is not None:
        bias = bias + layer.bias * scale
    return layer.weight * scale.view(-1, *[1] * (layer.weight.dim() - 1)), bias


def fold_frozen_norms(module: nn.Module) -> nn.Module:
    """Replace every convolution with a frozen norm with a :class:`FrozenNormConv2d`, in place.

    Returns:
        ``module``, or its replacement if ``module`` itself is such a convolution.
    """

    def build(conv: nn.Module) -> nn.Module | None:
        if type(conv) is Conv2d and isinstance(conv.norm, FrozenBatchNorm2d):
            return convert_convolution(conv, FrozenNormConv2d)
        return None

    return replace_modules(module, build)


def activate_in_place(module: nn.Module) -> None:
    """Make the ReLUs after the convolutions of ``module`` in-place operations."""
    for conv in module.modules():
        if isinstance(conv, Conv2d) and isinstance(conv.activation, nn.ReLU):
            conv.activation = nn.ReLU(inplace=True)


def speed_up_convolutions(module: nn.Module) -> nn.Module:
    """Replace every detectron2 ``Conv2d`` with a :class:`FastConv2d`, in place.

    Returns:
        ``module``, or its replacement if ``module`` itself is a convolution.
    """

    def build(conv: nn.Module) -> nn.Module | None:
        return convert_convolution(conv, FastConv2d) if type(conv) is Conv2d else None

    return replace_modules(module, build)
