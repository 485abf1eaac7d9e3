"""Overlapping tiles for inference on large images."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from fvcore.transforms import CropTransform
from torch import Tensor


class Span(NamedTuple):
    """The extent of a tile along one image axis, in pixels.

    Attributes:
        start, end: extent of the tile.
        core_start, core_end: extent of the core, where the tile's detections are kept. The cores
            of the outermost tiles extend to infinity.
    """

    start: int
    end: int
    core_start: float
    core_end: float


class TileTransform(CropTransform):
    """Crop an image to a tile, of which only detections centered in its core are kept.

    The cores partition the image, so every object is detected once, in a tile that shows its
    surroundings.
    """

    def __init__(self, rows: Span, columns: Span, height: int, width: int) -> None:
        """
        Args:
            rows, columns: extent of the tile.
            height, width: size of the image.
        """
        size = (columns.end - columns.start, rows.end - rows.start)
        super().__init__(columns.start, rows.start, *size, width, height)
        self.rows, self.columns = rows, columns

    def in_core(self, boxes: Tensor) -> Tensor:
        """Whether boxes in image coordinates, (N, 4), are centered in the core: (N,), bool."""
        x, y = (boxes[:, :2] + boxes[:, 2:]).div(2).unbind(1)
        return (
            (self.columns.core_start <= x)
            & (x < self.columns.core_end)
            & (self.rows.core_start <= y)
            & (y < self.rows.core_end)
        )


def lay_out_spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Cover one image axis with the fewest evenly spaced tiles.

    Args:
        length: length of the axis.
        tile: length of the tiles. A shorter axis becomes one tile of its own length.
        overlap: minimum overlap of neighbouring tiles, below ``tile``.
    """
    count = max(1, -(-(length - overlap) // (tile - overlap)))
    size = min(tile, length)
    starts = np.linspace(0, length - size, count).round().astype(int).tolist()
    borders = [(after + before + size) / 2 for before, after in pairwise(starts)]
    cores = zip([-np.inf, *borders], [*borders, np.inf])
    return [Span(start, start + size, *core) for start, core in zip(starts, cores)]


def cut_tiles(
    image: dict[str, Any], tile: int, overlap: int
) -> Iterator[tuple[TileTransform, dict[str, Any]]]:
    """Cut a model input into tiles.

    Args:
        image: model input with "image", (3, H, W).
        tile: size of the tiles, in pixels of the image.
        overlap: minimum overlap of neighbouring tiles, in pixels of the image.

    Yields:
        The crop of each tile, and the tile as a model input.
    """
    height, width = image["image"].shape[1:]
    for rows in lay_out_spans(height, tile, overlap):
        for columns in lay_out_spans(width, tile, overlap):
            cut = TileTransform(rows, columns, height, width)
            part = image["image"][:, rows.start : rows.end, columns.start : columns.end]
            yield cut, {**image, "image": part, "height": cut.h, "width": cut.w}
