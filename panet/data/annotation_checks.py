"""What can be wrong with a single annotation in COCO's format."""

import math
from collections.abc import Iterator
from typing import Any, Literal

from pycocotools import mask as rle

from .coco_file import encode_segmentation, valid_polygons

Finding = tuple[Literal["error", "warning"], str]
Box = tuple[float, float, float, float]

LEFT_OUT = "training leaves it out"

_BORDER = 1.0
"""By how many pixels a box may reach over the border of its image."""
_DIFFERENT_IOU, _WRONG_IOU = 0.9, 0.5
"""A box that overlaps the one around its mask less is told, or is an error."""
_ROUNDING = 2.0
"""By how many pixels they may differ whatever the overlap, x, y, width and height alike."""


def annotation_findings(
    annotation: dict[str, Any], size: tuple[Any, Any], needs_mask: bool
) -> Iterator[Finding]:
    """What is wrong with an annotation that has an image, a category and a box.

    Args:
        annotation: in COCO's format.
        size: height and width of its image, as the file says.
        needs_mask: whether it must have a mask.

    Yields:
        The severity, and the predicate of a sentence about the annotation.
    """
    if annotation.get("ignore", 0) != 0:
        yield "error", "has the key ignore, which detectron2 does not take; use iscrowd"
    if annotation.get("iscrowd", 0) not in (0, 1):
        yield "error", f"has {annotation['iscrowd']!r} as iscrowd; it must be 0 or 1"
    if not all(type(length) is int and length > 0 for length in size):
        return  # which is a defect of the image
    box = annotation["bbox"]
    if not _are_numbers(box) or len(box) != 4:
        yield "error", f"has {box!r} as bbox; it must be x, y, width, height"
        return
    yield from _box_findings(box, size)
    segmentation = annotation.get("segmentation")
    if segmentation:
        yield from _mask_findings(segmentation, box, size)
    elif needs_mask:
        yield "error", "has no segmentation, which MODEL.MASK_ON True needs"


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int | float) and math.isfinite(value) for value in values
    )


def _box_findings(box: Box, size: tuple[int, int]) -> Iterator[Finding]:
    x, y, width, height = box
    image_height, image_width = size
    shown = f"the box {', '.join(f'{value:g}' for value in box)}"
    if width <= 0 or height <= 0:
        yield "warning", f"has {shown}, which is empty; {LEFT_OUT}"
    elif x >= image_width or y >= image_height or x + width <= 0 or y + height <= 0:
        yield (
            "warning",
            f"has {shown} outside its image of {image_width} x {image_height}; {LEFT_OUT}",
        )
    elif max(-x, -y, x + width - image_width, y + height - image_height) > _BORDER:
        yield (
            "warning",
            f"has {shown}, which reaches out of its image of {image_width} x {image_height}",
        )


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
        around = tuple(rle.toBbox(encoded).tolist())
    else:
        if not isinstance(segmentation, list) or not all(map(_are_numbers, segmentation)):
            yield "error", "has a segmentation that is no list of polygons, each a list of numbers"
            return
        polygons = valid_polygons(segmentation)
        if len(polygons) < len(segmentation):
            what = "has a polygon of fewer than three points or of an odd number of coordinates"
            yield "warning", what if polygons else f"{what}; {LEFT_OUT}"
        if not polygons:
            return
        around = _bounds(polygons)
    yield from _compare(box, around)


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
        return "has an RLE whose counts are neither whole numbers nor a string"
    if runs is None or min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
        return "has an RLE whose counts do not fill its image"
    return ""


def decode_counts(counts: str) -> list[int] | None:
    """The run lengths of a compressed RLE; pycocotools does not say whether they fit the image.

    Args:
        counts: numbers of six bits a character, of which the lowest five are the number's and the
            sixth says that more follow; from the fourth number on each is the difference to the
            last but one.

    Returns:
        None if the last number is not complete, or if there are other characters.
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


def _bounds(polygons: list[Any]) -> Box:
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _compare(box: Box, around: Box) -> Iterator[Finding]:
    """Compare a box with the one around the mask, both x, y, width, height."""
    if min(box[2:]) <= 0 or all(abs(a - b) <= _ROUNDING for a, b in zip(box, around)):
        return
    overlap = 1.0
    for axis in (0, 1):
        start = max(box[axis], around[axis])
        end = min(box[axis] + box[axis + 2], around[axis] + around[axis + 2])
        overlap *= max(0.0, end - start)
    union = box[2] * box[3] + around[2] * around[3] - overlap
    iou = overlap / union
    if iou < _DIFFERENT_IOU:
        shown = ", ".join(f"{value:g}" for value in around)
        severity: Literal["error", "warning"] = "error" if iou < _WRONG_IOU else "warning"
        yield (
            severity,
            f"has a box that disagrees with its mask, which is at {shown} (IoU {iou:.2f})",
        )
