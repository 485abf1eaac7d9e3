"""Defects of a single annotation in COCO's format."""

import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Literal

import numpy as np
from pycocotools import mask as rle

from .coco_file import encode_segmentation, valid_polygons

Severity = Literal["error", "warning"]
Finding = tuple[Severity, str]
Box = Sequence[float]

LEFT_OUT = "training skips it"

_BORDER = 1.0
"""How far a box may extend beyond its image, in pixels."""
_DIFFERENT_IOU, _WRONG_IOU = 0.9, 0.5
"""IoU of a box with the one around its mask below which it is a warning, and an error."""
_ROUNDING = 2.0
"""Differences of x, y, width and height up to this, in pixels, are accepted at any IoU."""


def annotation_findings(
    annotation: dict[str, Any], size: tuple[Any, Any], needs_mask: bool
) -> Iterator[Finding]:
    """Find the defects of an annotation with an existing image, a valid category and a box.

    Args:
        annotation: in COCO's format.
        size: height and width of its image, as given in the file.
        needs_mask: whether it must have a mask.

    Yields:
        The severity, and a predicate with the annotation as its subject.
    """
    if annotation.get("ignore", 0) != 0:
        yield "error", "has the key 'ignore', which detectron2 does not support; use iscrowd"
    if annotation.get("iscrowd", 0) not in (0, 1):
        yield "error", f"has iscrowd {annotation['iscrowd']!r}; it must be 0 or 1"
    if not all(type(length) is int and length > 0 for length in size):
        return  # reported as a defect of the image
    box = annotation["bbox"]
    if not _are_numbers(box) or len(box) != 4:
        yield "error", f"has bbox {box!r}; it must be [x, y, width, height]"
        return
    yield from _box_findings(box, size)
    segmentation = annotation.get("segmentation")
    if segmentation:
        yield from _mask_findings(segmentation, box, size)
    elif needs_mask:
        yield "error", "has no segmentation, which MODEL.MASK_ON True requires"


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        # Neither NaN, infinite nor an integer that no float can hold.
        isinstance(value, int | float) and abs(value) <= sys.float_info.max
        for value in values
    )


def _box_findings(box: Box, size: tuple[int, int]) -> Iterator[Finding]:
    x, y, width, height = box
    image_height, image_width = size
    shown = ", ".join(f"{value:g}" for value in box)
    image = f"its image of {image_width} x {image_height}"
    if width <= 0 or height <= 0:
        yield "warning", f"has the empty box {shown}; {LEFT_OUT}"
    elif x >= image_width or y >= image_height or x + width <= 0 or y + height <= 0:
        yield "warning", f"has the box {shown} outside {image}; {LEFT_OUT}"
    elif max(-x, -y, x + width - image_width, y + height - image_height) > _BORDER:
        yield "warning", f"has the box {shown}, which extends beyond {image}"


def _mask_findings(segmentation: Any, box: Box, size: tuple[int, int]) -> Iterator[Finding]:
    if isinstance(segmentation, dict):
        fault = _rle_fault(segmentation, size)
        if fault:
            yield "error", fault
            return
        encoded = encode_segmentation(segmentation, size)
        if rle.area(encoded) == 0:
            yield "warning", f"has an empty mask; {LEFT_OUT}"
            return
        mask_box = rle.toBbox(encoded)
    else:
        if not isinstance(segmentation, list) or not all(map(_are_numbers, segmentation)):
            yield "error", "has a segmentation that is neither an RLE nor a list of polygons"
            return
        polygons = valid_polygons(segmentation)
        if len(polygons) < len(segmentation):
            what = "has a polygon with fewer than three points or an odd number of coordinates"
            yield "warning", what if polygons else f"{what}; {LEFT_OUT}"
        if not polygons:
            return
        points = np.array([*chain(*polygons)], np.float64).reshape(-1, 2)
        mask_box = np.concatenate([points.min(axis=0), np.ptp(points, axis=0)])
    yield from _compare(box, mask_box.tolist())


def _rle_fault(segmentation: dict[str, Any], size: tuple[int, int]) -> str:
    counts = segmentation.get("counts")
    if segmentation.get("size") != list(size):
        return (
            f"has an RLE of size {segmentation.get('size')} for an image of height {size[0]} and "
            f"width {size[1]}"
        )
    if isinstance(counts, str):
        runs = decode_counts(counts)
    elif isinstance(counts, list) and all(type(count) is int for count in counts):
        runs = counts
    else:
        return "has an RLE whose counts are neither a list of integers nor a string"
    if runs is None or min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
        return "has an RLE whose counts do not match the size of its image"
    return ""


def decode_counts(counts: str) -> list[int] | None:
    """Decode the run lengths of a compressed RLE.

    pycocotools does not report counts that do not match the image.

    Args:
        counts: characters with six bits each: the lowest five belong to a number, the sixth is set
            if more follow. From the fourth number on, each is a difference to the second last.

    Returns:
        The run lengths; None if the last number is incomplete or a character is invalid.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    return runs if shift == 0 else None


def _compare(box: Box, mask_box: Box) -> Iterator[Finding]:
    """Compare a box with the one around the mask, both x, y, width, height."""
    if min(box[2:]) <= 0 or all(abs(a - b) <= _ROUNDING for a, b in zip(box, mask_box)):
        return
    iou = rle.iou([box], [mask_box], [0]).item()
    if iou < _DIFFERENT_IOU:
        shown = ", ".join(f"{value:g}" for value in mask_box)
        yield (
            "error" if iou < _WRONG_IOU else "warning",
            f"has a box that does not match its mask, which is at {shown} (IoU {iou:.2f})",
        )
