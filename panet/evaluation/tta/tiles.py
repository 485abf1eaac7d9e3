"""Windows that a large image is seen through, one after the other."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from fvcore.transforms import CropTransform
from torch import Tensor


class Span(NamedTuple):
    """A window along one side of an image, in pixels.

    Attributes:
        start, end: of the window.
        core_start, core_end: of the part whose objects it answers for. The outermost windows
            answer for what is beyond the image's edge, too.
    """

    start: int
    end: int
    core_start: float
    core_end: float


class WindowTransform(CropTransform):
    """Cropping to a window, which answers for the objects that have their centers in its core.

    Every point of an image is in the core of one window, so that every object is found once, in a
    window that shows what is around it.
    """

    def __init__(self, rows: Span, columns: Span, height: int, width: int) -> None:
        """
        Args:
            rows, columns: what the window has of the image.
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


def lay_out_spans(length: int, window: int, overlap: int) -> list[Span]:
    """The fewest windows that cover a side of an image, evenly spaced.

    Args:
        length: of the side.
        window: length of the windows; a shorter side is one window of its own length.
        overlap: of neighbouring windows at least, below ``window``.
    """
    count = max(1, -(-(length - overlap) // (window - overlap)))
    size = min(window, length)
    starts = np.linspace(0, length - size, count).round().astype(int).tolist()
    borders = [(after + before + size) / 2 for before, after in pairwise(starts)]
    cores = zip([-np.inf, *borders], [*borders, np.inf])
    return [Span(start, start + size, *core) for start, core in zip(starts, cores)]


def cut_windows(
    image: dict[str, Any], window: int, overlap: int
) -> Iterator[tuple[WindowTransform, dict[str, Any]]]:
    """The windows of a model's input: how each is cut, and what it is as an input of its own.

    Args:
        image: with "image", (3, H, W).
        window, overlap: of neighbours, in pixels of the image.
    """
    height, width = image["image"].shape[1:]
    for rows in lay_out_spans(height, window, overlap):
        for columns in lay_out_spans(width, window, overlap):
            cut = WindowTransform(rows, columns, height, width)
            part = image["image"][:, rows.start : rows.end, columns.start : columns.end]
            yield cut, {**image, "image": part, "height": cut.h, "width": cut.w}
