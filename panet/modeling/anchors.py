"""Anchors of Detectron, which the authors' release inherited."""

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
    """Anchors whose sides were rounded while they were as small as one cell of the feature map.

    At stride 4, for instance, an anchor of size 32 and aspect ratio 1/2 is 48 x 24 pixels, not
    45.3 x 22.6. Models that were trained with such anchors regress from them. To have them
    centered as in Detectron, ``MODEL.ANCHOR_GENERATOR.OFFSET`` must be 0.5.
    """

    def _calculate_anchors(
        self, sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[Sequence[float]]
    ) -> BufferList:
        return BufferList(
            _cell_anchors(stride, level_sizes, level_ratios)
            for stride, level_sizes, level_ratios in zip(self.strides, sizes, aspect_ratios)
        )


def _cell_anchors(stride: int, sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    """Anchors around the origin, (len(aspect_ratios) * len(sizes), 4), x0, y0, x1, y1 in pixels."""
    anchors = []
    for ratio in aspect_ratios:
        width = round(math.sqrt(stride**2 / ratio))
        height = round(width * ratio)
        for size in sizes:
            half_width, half_height = width * size / stride / 2, height * size / stride / 2
            anchors.append([-half_width, -half_height, half_width, half_height])
    return torch.tensor(anchors)
