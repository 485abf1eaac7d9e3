"""Fully-connected layers on channels-last feature maps."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from panet.modeling.fully_connected import FullyConnected, multiply_batched, normalize_rows
from panet.utils.modules import share_state

from .linear import linear


class FastFullyConnected(FullyConnected):
    """A :class:`FullyConnected` with the matrix product that is fastest on this CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (R, C, H, W), or (R, C) if H = W = 1.

        Returns:
            (R, out_features).
        """
        return normalize_rows(linear(x, self.weight, self.bias), self.norm)

    @classmethod
    def of(cls, layer: FullyConnected) -> "FastFullyConnected":
        """Create a layer that shares the parameters and the norm of ``layer``."""
        with torch.device("meta"):  # neither allocate nor initialize parameters
            fast = cls(layer.input_shape, layer.out_features)
        fast.norm = layer.norm
        return share_state(fast, layer)


class PixelMajorFullyConnected(nn.Module):
    """A fully-connected layer for inference whose weight is stored in channels-last order.

    Channels-last maps can be flattened without a copy, whereas :class:`FullyConnected` must
    reorder them to channels-first. The weight is named ``weight_by_pixel`` so that weights in
    channels-first order cannot be loaded by mistake.
    """

    def __init__(self, weight_by_pixel: Tensor, bias: Tensor, norm: Any) -> None:
        """
        Args:
            weight_by_pixel: (out_features, H * W * C).
            bias: (out_features,).
            norm: normalization of the output, or None.
        """
        super().__init__()
        self.weight_by_pixel = nn.Parameter(weight_by_pixel, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (R, C, H, W), or (R, C) if H = W = 1.

        Returns:
            (R, out_features).
        """
        rows = x if x.dim() == 2 else x.movedim(1, -1).flatten(1)
        return normalize_rows(linear(rows, self.weight_by_pixel, self.bias), self.norm)

    @staticmethod
    def batched(layers: "Sequence[PixelMajorFullyConnected]", x: Tensor) -> list[Tensor]:
        """See :meth:`FullyConnected.batched`."""
        parameters = [(layer.weight_by_pixel, layer.bias) for layer in layers]
        rows = x.movedim(2, -1).flatten(2)
        return multiply_batched(rows, parameters, [layer.norm for layer in layers])

    @classmethod
    def of(cls, layer: FullyConnected) -> "PixelMajorFullyConnected":
        """Create a layer with the reordered weight, the bias and the norm of ``layer``."""
        shape = layer.input_shape
        weight = layer.weight.detach().view(-1, shape.channels, shape.height * shape.width)
        return cls(weight.mT.flatten(1), layer.bias.detach(), layer.norm)
