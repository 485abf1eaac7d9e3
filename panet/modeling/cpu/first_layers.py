"""Fully-connected layers over channels-last feature maps."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from panet.modeling.fully_connected import FullyConnected, multiply_batched, normalize_rows
from panet.utils.modules import share_state

from .linear import linear


class FastFullyConnected(FullyConnected):
    """A :class:`FullyConnected` by whichever product is fastest on this CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (R, C, H, W); (R, C) will do for maps of one pixel.

        Returns:
            (R, out_features).
        """
        return normalize_rows(linear(x, self.weight, self.bias), self.norm)

    @classmethod
    def of(cls, layer: FullyConnected) -> "FastFullyConnected":
        """The layer with the parameters and the norm of ``layer``."""
        with torch.device("meta"):  # parameters that take neither memory nor random numbers
            fast = cls(layer.input_shape, layer.out_features)
        fast.norm = layer.norm
        return share_state(fast, layer)


class PixelMajorFullyConnected(nn.Module):
    """A fully-connected layer for inference whose weight lies as channels-last maps do.

    Neither is copied for the product, whereas a :class:`FullyConnected` has to flatten channel by
    channel what lies pixel by pixel. The weight is called ``weight_by_pixel``, so that none in
    the other order is loaded into it.
    """

    def __init__(self, weight_by_pixel: Tensor, bias: Tensor, norm: Any) -> None:
        """
        Args:
            weight_by_pixel: (out_features, H * W * C).
            bias: (out_features,).
            norm: what normalizes the output, or None.
        """
        super().__init__()
        self.weight_by_pixel = nn.Parameter(weight_by_pixel, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (R, C, H, W); (R, C) will do for maps of one pixel.

        Returns:
            (R, out_features).
        """
        rows = x if x.dim() == 2 else x.movedim(1, -1).flatten(1)
        return normalize_rows(linear(rows, self.weight_by_pixel, self.bias), self.norm)

    @staticmethod
    def batched(layers: "Sequence[PixelMajorFullyConnected]", x: Tensor) -> list[Tensor]:
        """As :meth:`FullyConnected.batched`."""
        parameters = [(layer.weight_by_pixel, layer.bias) for layer in layers]
        rows = x.movedim(2, -1).flatten(2)
        return multiply_batched(rows, parameters, [layer.norm for layer in layers])

    @classmethod
    def of(cls, layer: FullyConnected) -> "PixelMajorFullyConnected":
        """The layer with the weight of ``layer`` in the other order, its bias and its norm."""
        shape = layer.input_shape
        weight = layer.weight.detach().view(-1, shape.channels, shape.height * shape.width)
        return cls(weight.mT.flatten(1), layer.bias.detach(), layer.norm)
