"""Fully-connected layers over pooled feature maps."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import ShapeSpec, get_norm
from torch import Tensor, nn

from .linear import linear


class FullyConnected(nn.Conv2d):
    """A fully-connected layer over a whole feature map, without flattening the map first.

    It is a convolution whose kernel covers the map. With the map and the weight in the same
    memory format, channels-last or not, neither is copied. ``state_dict`` shows the weight as
    ``nn.Linear`` does, (out_features, C * H * W), so that checkpoints go both ways.
    """

    def __init__(self, input_shape: ShapeSpec, out_features: int, norm: str = "") -> None:
        """
        Args:
            input_shape: channels, height and width of the map.
            out_features: size of the output.
            norm: normalization of the output.
        """
        super().__init__(
            input_shape.channels, out_features, (input_shape.height, input_shape.width)
        )
        self.norm: Any = get_norm(norm, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (R, C, H, W); (R, C) will do for maps of one pixel.

        Returns:
            (R, out_features).
        """
        if x.dim() == 2:
            x = x[:, :, None, None]
        rows = self._in_order_of_weight(x).flatten(1)
        return self._normalize(linear(rows, self._matrix(), self.get_parameter("bias")))

    @staticmethod
    def batched(layers: "Sequence[FullyConnected]", x: Tensor) -> list[Tensor]:
        """What each layer makes of its own maps, by one batched product.

        Args:
            layers: L of one shape.
            x: (L, R, C, H, W).

        Returns:
            L of (R, out_features).
        """
        rows = layers[0]._in_order_of_weight(x).flatten(2)
        weight = torch.stack([layer._matrix() for layer in layers])
        bias = torch.stack([layer.get_parameter("bias") for layer in layers])
        outputs = torch.baddbmm(bias[:, None], rows, weight.mT)
        # By index, for what comes of unbinding may not be overwritten by a ReLU.
        return [layer._normalize(outputs[index]) for index, layer in enumerate(layers)]

    def _is_channels_last(self) -> bool:
        return self.weight.is_contiguous(memory_format=torch.channels_last)

    def _in_order_of_weight(self, x: Tensor) -> Tensor:
        return x.movedim(-3, -1) if self._is_channels_last() else x

    def _matrix(self) -> Tensor:
        return self._in_order_of_weight(self.weight).flatten(1)

    def _normalize(self, output: Tensor) -> Tensor:
        if self.norm is None:
            return output
        normalized: Tensor = self.norm(output[:, :, None, None])
        return normalized.flatten(1)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = destination[prefix + "weight"].flatten(1)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        weight = state_dict.get(prefix + "weight")
        if weight is not None and weight.shape == (self.out_channels, self.weight[0].numel()):
            state_dict[prefix + "weight"] = weight.reshape(self.weight.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
