"""Fully-connected layers over pooled feature maps."""

from typing import Any

import torch
from detectron2.layers import ShapeSpec, get_norm
from torch import Tensor, nn

from .cpu.linear import linear


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
        output = self._product(x)
        if self.norm is not None:
            output = self.norm(output[:, :, None, None]).flatten(1)
        return output

    def _product(self, x: Tensor) -> Tensor:
        weight = self.weight
        if weight.is_contiguous(memory_format=torch.channels_last):
            x, weight = x.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)
        return linear(x.flatten(1), weight.flatten(1), self.get_parameter("bias"))

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
