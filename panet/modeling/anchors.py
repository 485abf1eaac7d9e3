"""Anchor generator of Detectron, which the authors' release is based on."""

import math
from collections.abc import Sequence

import torch
from detectron2.modeling.anchor_generator import (
    ANCHOR_GENERATOR_REGISTRY,
    BufferList,
    DefaultAnchorGenerator,
)
from torch import Tensor


@ANCHOR_GENERATOR_REGISTRY.register()
class DetectronAnchorGenerator(DefaultAnchorGenerator):
    """Anchors that are rounded at the size of one feature map cell and then scaled.

    For example, at stride 4 an anchor of size 32 and aspect ratio 1/2 (height / width) is 48 x 24
    pixels instead of 45.3 x 22.6. Models trained with these anchors need them for box regression.
    Detectron's anchor centers require ``MODEL.ANCHOR_GENERATOR.OFFSET`` to be 0.5.
    """

    def _calculate_anchors(
        self, sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[Sequence[float]]
    ) -> BufferList:
        return BufferList(
            _cell_anchors(stride, level_sizes, level_ratios)
            for stride, level_sizes, level_ratios in zip(self.strides, sizes, aspect_ratios)
        )


def _cell_anchors(stride: int, sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    """Return anchors centered at the origin, (len(aspect_ratios) * len(sizes), 4), XYXY pixels."""
    anchors = []
    for ratio in aspect_ratios:
        width = round(math.sqrt(stride**2 / ratio))
        height = round(width * ratio)
        for size in sizes:
            half_width, half_height = width * size / stride / 2, height * size / stride / 2
            anchors.append([-half_width, -half_height, half_width, half_height])
    return torch.tensor(anchors)
