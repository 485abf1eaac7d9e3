"""Counts and sizes of the objects of a dataset in COCO's format."""

import math
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.structures import BoxMode
from detectron2.structures.masks import polygon_area
from pycocotools import mask as rle

from .coco_file import category_names, encode_segmentation, entries, valid_polygons
from .json_checks import Defect

SMALL, LARGE = 32**2, 96**2
"""COCO's area limits of small, medium and large objects, in square pixels."""
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


class Sizes(NamedTuple):
    """Sizes of boxes or masks.

    Attributes:
        small, medium, large: numbers of those with an area below 32 x 32 pixels, up to 96 x 96
            pixels, and above.
        quantiles: of the square root of the area, in pixels, at :data:`QUANTILES`; empty if there
            are no boxes or masks.
    """

    small: int
    medium: int
    large: int
    quantiles: tuple[float, ...]


class Summary(NamedTuple):
    """Statistics of a dataset.

    Attributes:
        images: number of images.
        empty_images: number of images without annotations.
        crowds: number of crowd annotations, which ``boxes`` and ``masks`` exclude.
        classes: number of annotations per class, ordered by category id.
        boxes, masks: their sizes.
    """

    images: int
    empty_images: int
    crowds: int
    classes: dict[str, int]
    boxes: Sizes
    masks: Sizes


def ids_with_errors(defects: Iterable[Defect]) -> set[str]:
    """The ids, such as "annotation 7", of the entries that have an error."""
    return {defect.id for defect in defects if defect.severity == "error" and defect.id}


def summarize_dataset(content: dict[str, Any], bad: Collection[str]) -> Summary:
    """Compute the statistics of a dataset.

    Args:
        content: of a JSON file with valid categories.
        bad: ids to exclude, see :func:`ids_with_errors`.
    """
    names = category_names(content)
    sizes = {image["id"]: (image["height"], image["width"]) for image in _images(content)}
    counts = Counter(dict.fromkeys(names.values(), 0))
    boxes, masks, crowds = [], [], 0
    seen = set()
    for annotation in sound_annotations(content, bad):
        if annotation["image_id"] not in sizes:
            continue
        seen.add(annotation["image_id"])
        counts[names[annotation["category_id"]]] += 1
        if annotation.get("iscrowd", 0):
            crowds += 1
            continue
        _, _, width, height = annotation["bbox"]
        boxes.append(max(width, 0) * max(height, 0))
        segmentation = annotation.get("segmentation")
        if segmentation:
            masks.append(_mask_area(segmentation, sizes[annotation["image_id"]]))
    return Summary(
        len(sizes), len(sizes.keys() - seen), crowds, dict(counts), _measure(boxes), _measure(masks)
    )


def sound_annotations(content: dict[str, Any], bad: Collection[str]) -> list[dict[str, Any]]:
    """The annotations that have an id which is not in ``bad``, see :func:`ids_with_errors`."""
    annotations = entries(content, "annotations", id=int | str)
    return [each for each in annotations if f"annotation {each['id']}" not in bad]


def sample_records(
    content: dict[str, Any], image_root: Path, number: int, bad: Collection[str]
) -> list[dict[str, Any]]:
    """Sample images with objects, evenly spread over the file.

    Args:
        content: of a JSON file with valid categories.
        image_root: folder that its file names are relative to.
        number: maximum number of images.
        bad: ids of images and annotations to exclude, see :func:`ids_with_errors`.

    Returns:
        Records in detectron2's dataset format.
    """
    classes = {number: index for index, number in enumerate(category_names(content))}
    objects: dict[Any, list[dict[str, Any]]] = {}
    for annotation in sound_annotations(content, bad):
        shown = {
            "bbox": annotation["bbox"],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": classes[annotation["category_id"]],
            "iscrowd": annotation.get("iscrowd", 0),
        }
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, list):
            segmentation = valid_polygons(segmentation)
        if segmentation:
            shown["segmentation"] = segmentation
        objects.setdefault(annotation["image_id"], []).append(shown)
    images = [i for i in _images(content) if i["id"] in objects and f"image {i['id']}" not in bad]
    places = np.linspace(0, len(images) - 1, min(number, len(images))).round().astype(int)
    records = []
    for image in (images[place] for place in places):
        found = objects[image["id"]]
        # The visualizer needs masks for all objects or for none.
        if any("segmentation" in shown for shown in found):
            found = [shown for shown in found if "segmentation" in shown]
        path = str(image_root / image["file_name"])
        records.append({"file_name": path, "image_id": image["id"], "annotations": found})
    return records


def _images(content: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        image
        for image in entries(content, "images", id=int | str)
        if all(type(image.get(key)) is int and image[key] > 0 for key in ("height", "width"))
    ]


def _mask_area(segmentation: Any, size: tuple[int, int]) -> float:
    """The area of a mask in square pixels; polygons are not rasterized."""
    if isinstance(segmentation, dict):
        return float(rle.area(encode_segmentation(segmentation, size)))
    polygons = map(np.array, valid_polygons(segmentation))
    return float(sum(polygon_area(polygon[0::2], polygon[1::2]) for polygon in polygons))


def _measure(areas: list[float]) -> Sizes:
    small = sum(area < SMALL for area in areas)
    large = sum(area > LARGE for area in areas)
    lengths = [math.sqrt(area) for area in areas]
    quantiles = np.quantile(lengths, QUANTILES).tolist() if areas else ()
    return Sizes(small, len(areas) - small - large, large, tuple(quantiles))
