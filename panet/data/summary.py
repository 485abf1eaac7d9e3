"""How many objects a dataset in COCO's format has, and of what sizes."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from detectron2.structures import BoxMode
from pycocotools import mask as rle

from .coco_file import category_names, encode_segmentation, valid_polygons
from .json_checks import Defect

SMALL, LARGE = 32**2, 96**2
"""COCO's bounds between small, medium and large objects, in square pixels."""
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


class Sizes(NamedTuple):
    """The sizes of boxes or of masks.

    Attributes:
        small, medium, large: how many have less than 32 x 32 pixels, up to 96 x 96, and more.
        quantiles: of the square root of the area, in pixels, at :data:`QUANTILES`; empty if there
            are none.
    """

    small: int
    medium: int
    large: int
    quantiles: tuple[float, ...]


class Summary(NamedTuple):
    """What a dataset has.

    Attributes:
        images: their number.
        empty_images: the number of those without an annotation.
        crowds: the number of annotations of crowds, which count nowhere else but in the classes.
        classes: the number of annotations of each class, in the order of the category ids.
        boxes, masks: their sizes.
    """

    images: int
    empty_images: int
    crowds: int
    classes: dict[str, int]
    boxes: Sizes
    masks: Sizes


def ids_with_errors(defects: Iterable[Defect]) -> set[str]:
    """The ids, such as "annotation 7", of what has an error."""
    return {defect.id for defect in defects if defect.severity == "error" and defect.id}


def summarize_dataset(content: dict[str, Any], bad: Collection[str]) -> Summary:
    """Count and measure.

    Args:
        content: of a JSON file with well-formed categories.
        bad: what has errors, see :func:`ids_with_errors`; such annotations are left out.
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


def sound_annotations(content: dict[str, Any], bad: Collection[str]) -> Iterator[dict[str, Any]]:
    """The annotations that have an id which is not in ``bad``, see :func:`ids_with_errors`."""
    annotations = content.get("annotations")
    for annotation in annotations if isinstance(annotations, list) else ():
        if not isinstance(annotation, dict) or not isinstance(annotation.get("id"), int | str):
            continue
        if f"annotation {annotation['id']}" not in bad:
            yield annotation


def sample_records(
    content: dict[str, Any], image_root: Path, number: int, bad: Collection[str]
) -> list[dict[str, Any]]:
    """Some images with objects, evenly spread over the file, in detectron2's dataset format.

    Args:
        content: of a JSON file with well-formed categories.
        image_root: the folder that its file names begin in.
        number: how many at most.
        bad: what has errors, see :func:`ids_with_errors`; such images and annotations are left out.
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
        # The drawing takes masks for all objects or for none.
        if any("segmentation" in shown for shown in found):
            found = [shown for shown in found if "segmentation" in shown]
        path = str(image_root / image["file_name"])
        records.append({"file_name": path, "image_id": image["id"], "annotations": found})
    return records


def _images(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    images = content.get("images")
    for image in images if isinstance(images, list) else ():
        if not isinstance(image, dict) or not isinstance(image.get("id"), int | str):
            continue
        if all(type(image.get(key)) is int and image[key] > 0 for key in ("height", "width")):
            yield image


def _mask_area(segmentation: Any, size: tuple[int, int]) -> float:
    """The area of a mask in square pixels; of polygons by the shoelace formula, without drawing."""
    if isinstance(segmentation, dict):
        return float(rle.area(encode_segmentation(segmentation, size)))
    return sum(_polygon_area(np.array(polygon)) for polygon in valid_polygons(segmentation))


def _polygon_area(polygon: npt.NDArray[np.float64]) -> float:
    x, y = polygon[0::2], polygon[1::2]
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)


def _measure(areas: list[float]) -> Sizes:
    small = sum(area < SMALL for area in areas)
    large = sum(area > LARGE for area in areas)
    lengths = [math.sqrt(area) for area in areas]
    quantiles = np.quantile(lengths, QUANTILES).tolist() if areas else ()
    return Sizes(small, len(areas) - small - large, large, tuple(quantiles))
