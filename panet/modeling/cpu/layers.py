"""detectron2's convolutions with fewer passes over the feature map, in training too."""

from typing import Any

from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn

from .convolution import conv2d, is_improved


class FrozenNormConv2d(Conv2d):
    """detectron2's convolution with its :class:`FrozenBatchNorm2d` multiplied into the weight.

    It trains as before, but the norm takes no pass over the feature map, nor keeps one for the
    backward pass. Parameters, buffers and their names stay the same.
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
    """detectron2's convolution by whichever algorithm is fastest on this CPU."""

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


def folded_parameters(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that computes ``conv`` and its norm's running statistics.

    Args:
        conv: its ``norm`` is a ``FrozenBatchNorm2d`` or a batch norm.
    """
    norm: Any = conv.norm
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    bias = -norm.running_mean * scale
    if norm.bias is not None:
        bias = bias + norm.bias
    if conv.bias is not None:
        bias = bias + conv.bias * scale
    return conv.weight * scale[:, None, None, None], bias


def fold_frozen_norms(module: nn.Module) -> None:
    """Make every convolution of ``module`` that has a frozen norm a :class:`FrozenNormConv2d`."""
    for conv in module.modules():
        if type(conv) is Conv2d and isinstance(conv.norm, FrozenBatchNorm2d):
            # Others hold references to it, so the object has to stay the same.
            conv.__class__ = FrozenNormConv2d


def activate_in_place(module: nn.Module) -> None:
    """Have the ReLUs of the convolutions of ``module`` overwrite what these computed."""
    for conv in module.modules():
        if isinstance(conv, Conv2d) and isinstance(conv.activation, nn.ReLU):
            conv.activation = nn.ReLU(inplace=True)


def speed_up_convolutions(module: nn.Module) -> None:
    """Make every plain convolution of ``module`` a :class:`FastConv2d`."""
    for conv in module.modules():
        if type(conv) is Conv2d:
            conv.__class__ = FastConv2d
