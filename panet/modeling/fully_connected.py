"""Fully-connected layers on RoI features."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import ShapeSpec, get_norm
from torch import Tensor, nn
from torch.nn import functional as F

from .norms import Norm


class FullyConnected(nn.Linear):
    """A fully-connected layer on a flattened feature map, followed by optional normalization."""

    def __init__(self, input_shape: ShapeSpec, out_features: int, norm: Norm = "") -> None:
        """
        Args:
            input_shape: channels, height and width of the feature map.
            out_features: number of output features.
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
            x: (R, C, H, W), or (R, C) if H = W = 1.

        Returns:
            (R, out_features).
        """
        output = F.linear(x.flatten(1), self.weight, self.bias)
        # Not normalize_rows: TorchScript cannot pass the norm as an argument.
        if self.norm is not None:
            output = self.norm(output[:, :, None, None]).flatten(1)
        return output

    @staticmethod
    def batched(layers: "Sequence[FullyConnected]", x: Tensor) -> list[Tensor]:
        """Apply each layer to its own input with one batched matrix product.

        Args:
            layers: L layers of the same shape.
            x: (L, R, C, H, W).

        Returns:
            L tensors of (R, out_features).
        """
        parameters = [(layer.weight, layer.bias) for layer in layers]
        return multiply_batched(x.flatten(2), parameters, [layer.norm for layer in layers])


def multiply_batched(
    rows: Tensor, parameters: Sequence[tuple[Tensor, Tensor]], norms: Sequence[Any]
) -> list[Tensor]:
    """Apply L fully-connected layers, each to its own rows, with one batched matrix product.

    Args:
        rows: (L, R, in_features).
        parameters: for each layer, weight (out_features, in_features) and bias (out_features,).
        norms: for each layer, the normalization of its output, or None.

    Returns:
        L tensors of (R, out_features).
    """
    weight, bias = (torch.stack(tensors) for tensors in zip(*parameters))
    outputs = torch.bmm(rows, weight.mT).add_(bias[:, None])
    # Index instead of unbind: in-place operations such as ReLU are not allowed on unbound views.
    return [normalize_rows(outputs[index], norm) for index, norm in enumerate(norms)]


def normalize_rows(x: Tensor, norm: Any) -> Tensor:
    """Apply a 2d norm to the rows of (R, C); return ``x`` itself if ``norm`` is None."""
    return x if norm is None else norm(x[:, :, None, None]).flatten(1)
