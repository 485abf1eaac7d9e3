"""Tiles that a large image is seen through, one after the other."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from fvcore.transforms import CropTransform
from torch import Tensor


class Span(NamedTuple):
    """A tile along one side of an image, in pixels.

    Attributes:
        start, end: of the tile.
        core_start, core_end: of the part whose objects it answers for. The outermost tiles
            answer for what is beyond the image's edge, too.
    """

    start: int
    end: int
    core_start: float
    core_end: float


class TileTransform(CropTransform):
    """Cropping to a tile, which answers for the objects that have their centers in its core.

    Every point of an image is in the core of one tile, so that every object is found once, in a
    tile that shows what is around it.
    """

    def __init__(self, rows: Span, columns: Span, height: int, width: int) -> None:
        """
        Args:
            rows, columns: what the tile has of the image.
            height, width: of the image.
        """
        super().__init__(
            columns.start,
            rows.start,
            columns.end - columns.start,
            rows.end - rows.start,
            width,
            height,
        )
        self.rows = rows
        self.columns = columns

    def in_core(self, boxes: Tensor) -> Tensor:
        """Which boxes of the image, (N, 4), have their centers in the core: (N,), bool."""
        x, y = (boxes[:, :2] + boxes[:, 2:]).div(2).unbind(1)
        return (
            (self.columns.core_start <= x)
            & (x < self.columns.core_end)
            & (self.rows.core_start <= y)
            & (y < self.rows.core_end)
        )


def lay_out_spans(length: int, tile: int, overlap: int) -> list[Span]:
    """The fewest tiles that cover a side of an image, evenly spaced.

    Args:
        length: of the side.
        tile: length of the tiles; a shorter side is one tile of its own length.
        overlap: of neighbouring tiles at least, below ``tile``.
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
    """The tiles of a model's input: how each is cut, and what it is as an input of its own.

    Args:
        image: with "image", (3, H, W).
        tile, overlap: of neighbours, in pixels of the image.
    """
    height, width = image["image"].shape[1:]
    for rows in lay_out_spans(height, tile, overlap):
        for columns in lay_out_spans(width, tile, overlap):
            cut = TileTransform(rows, columns, height, width)
            part = image["image"][:, rows.start : rows.end, columns.start : columns.end]
            yield cut, {**image, "image": part, "height": cut.h, "width": cut.w}
