"""Fully-connected layers over pooled feature maps."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import ShapeSpec, get_norm
from torch import Tensor, nn
from torch.nn import functional as F


class FullyConnected(nn.Linear):
    """A fully-connected layer over a whole feature map, with its normalization."""

    def __init__(self, input_shape: ShapeSpec, out_features: int, norm: str = "") -> None:
        """
        Args:
            input_shape: channels, height and width of the map.
            out_features: size of the output.
            norm: normalization of the output.
        """
        super().__init__(
            input_shape.channels * input_shape.height * input_shape.width, out_features
        )
        self.input_shape = input_shape
        self.norm: Any = get_norm(norm, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (R, C, H, W); (R, C) will do for maps of one pixel.

        Returns:
            (R, out_features).
        """
        output = F.linear(x.flatten(1), self.weight, self.bias)
        # TorchScript cannot hand the norm on to normalize_rows.
        if self.norm is not None:
            output = self.norm(output[:, :, None, None]).flatten(1)
        return output

    @staticmethod
    def batched(layers: "Sequence[FullyConnected]", x: Tensor) -> list[Tensor]:
        """What each layer makes of its own maps, by one batched product.

        Args:
            layers: L of one shape.
            x: (L, R, C, H, W).

        Returns:
            L of (R, out_features).
        """
        parameters = [(layer.weight, layer.bias) for layer in layers]
        return multiply_batched(x.flatten(2), parameters, [layer.norm for layer in layers])


def multiply_batched(
    rows: Tensor, parameters: Sequence[tuple[Tensor, Tensor]], norms: Sequence[Any]
) -> list[Tensor]:
    """L fully-connected layers, each of rows of its own, by one batched product.

    Args:
        rows: (L, R, in_features).
        parameters: for each layer, weight (out_features, in_features) and bias (out_features,).
        norms: for each layer, what normalizes its output, or None.

    Returns:
        L of (R, out_features).
    """
    weight, bias = (torch.stack(tensors) for tensors in zip(*parameters))
    outputs = torch.bmm(rows, weight.mT).add_(bias[:, None])
    # By index, for what comes of unbinding may not be overwritten by a ReLU.
    return [normalize_rows(outputs[index], norm) for index, norm in enumerate(norms)]


def normalize_rows(x: Tensor, norm: Any) -> Tensor:
    """(R, C) normalized by what takes maps, or itself if ``norm`` is None."""
    return x if norm is None else norm(x[:, :, None, None]).flatten(1)
