"""Reading COCO JSON files, and writing copies that COCO's metrics can read."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from pycocotools import mask as rle

from panet.utils.atomic import open_atomically
from panet.utils.errors import UserError


@dataclass
class MaskKinds:
    """Numbers of annotations of a class by the kind of their mask.

    Attributes:
        total: all annotations.
        rles: those with an RLE.
        missing: those without a mask.
        example: id of the first one without a mask.
    """

    total: int = 0
    rles: int = 0
    missing: int = 0
    example: Any = None


class Contents(NamedTuple):
    """Classes of a COCO file.

    Attributes:
        categories: the name for each category id, ordered by id.
        masks: kinds of masks for each class name.
    """

    categories: dict[int, str]
    masks: dict[str, MaskKinds]


def read_coco_json(path: Path) -> dict[str, Any]:
    """Read a COCO JSON file.

    Raises:
        UserError: if it does not exist or is not a JSON object.
    """
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} is not in COCO's format; it must be a JSON object with the keys images, "
            "annotations and categories."
        )
    return content


def entries(content: dict[str, Any], key: str, **types: Any) -> list[dict[str, Any]]:
    """The well-formed entries of a list in a file that may be malformed.

    Args:
        content: of the file.
        key: "images" or "annotations".
        **types: keys that an entry must have, and the types of their values, e.g. ``id=int``.
    """
    values = content.get(key)
    return [
        value
        for value in (values if isinstance(values, list) else ())
        if isinstance(value, dict)
        and all(isinstance(value.get(name), kind) for name, kind in types.items())
    ]


def named_images(content: dict[str, Any]) -> list[tuple[Any, str]]:
    """The id and the file name of each image that has a file name."""
    images = entries(content, "images", file_name=str)
    return [(image.get("id"), image["file_name"]) for image in images]


def summarize(content: dict[str, Any]) -> Contents:
    """Count the annotations of each class in a file with valid categories."""
    categories = category_names(content)
    masks = {name: MaskKinds() for name in categories.values()}
    for annotation in entries(content, "annotations", category_id=int):
        if annotation["category_id"] in categories:
            kinds = masks[categories[annotation["category_id"]]]
            segmentation = annotation.get("segmentation")
            kinds.total += 1
            if not segmentation:
                if kinds.missing == 0:
                    kinds.example = annotation.get("id")
                kinds.missing += 1
            elif isinstance(segmentation, dict):
                kinds.rles += 1
    return Contents(categories, masks)


def category_names(content: dict[str, Any]) -> dict[int, str]:
    """The name for each category id, ordered by id; the categories must be valid."""
    return dict(sorted((category["id"], category["name"]) for category in content["categories"]))


def class_ids(categories: dict[int, str], classes: Sequence[str]) -> list[int]:
    """The category ids of ``classes`` in the file for evaluation.

    detectron2 assumes that classes are ordered by id. The ids of the file are therefore kept only
    if they are in the order of ``classes`` and none is missing; otherwise they are 1, 2, ...
    """
    own = {name: number for number, name in categories.items()}
    ids = [own[name] for name in classes if name in own]
    return ids if len(ids) == len(classes) and ids == sorted(ids) else [*range(1, len(classes) + 1)]


def write_evaluation_file(content: dict[str, Any], classes: Sequence[str], path: Path) -> None:
    """Write a copy of a file for COCO's metrics, reduced to ``classes``.

    The metrics require an area and a crowd flag for each annotation, which many files lack, and
    silently mishandle an annotation with the id 0.

    Args:
        content: of the file; if it has no "annotations", neither has the copy.
        classes: names in the order of the model's classes.
        path: of the copy; its folder is created.
    """
    categories = category_names(content)
    ids = class_ids(categories, classes)
    new_id = {old: ids[classes.index(n)] for old, n in categories.items() if n in classes}
    images = content["images"]
    new: dict[str, Any] = {
        "info": content.get("info", {}),
        "images": images,
        "categories": [{"id": number, "name": name} for number, name in zip(ids, classes)],
    }
    if "annotations" in content:
        sizes = {image["id"]: (image["height"], image["width"]) for image in images}
        kept = (
            annotation
            for annotation in content["annotations"]
            if annotation["category_id"] in new_id and annotation["image_id"] in sizes
        )
        new["annotations"] = [
            {
                **annotation,
                "id": number,
                "category_id": new_id[annotation["category_id"]],
                "area": annotation_area(annotation, sizes[annotation["image_id"]]),
                "iscrowd": annotation.get("iscrowd", 0),
            }
            for number, annotation in enumerate(kept, 1)
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    # Every process of an evaluation writes the file.
    with FileLock(f"{path}.lock"), open_atomically(path, "w") as file:
        json.dump(new, file)


def annotation_area(annotation: dict[str, Any], size: tuple[int, int]) -> float:
    """The area of an annotation in square pixels: as stated, or else of its mask, or of its box.

    Args:
        annotation: of a COCO file.
        size: height and width of its image.
    """
    if isinstance(annotation.get("area"), int | float):
        return float(annotation["area"])
    encoded = encode_segmentation(annotation.get("segmentation"), size)
    if encoded is None:
        _, _, width, height = annotation["bbox"]
        return float(width * height)
    return float(rle.area(encoded))


def encode_segmentation(segmentation: Any, size: tuple[int, int]) -> dict[str, Any] | None:
    """Encode a mask as compressed RLE.

    Args:
        segmentation: polygons, compressed or uncompressed RLE, or nothing.
        size: height and width of the image.

    Returns:
        COCO's dict of "size" and "counts"; None if there is no mask.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        return rle.frPyObjects(segmentation, *size) if isinstance(counts, list) else segmentation
    polygons = valid_polygons(segmentation)
    return rle.merge(rle.frPyObjects(polygons, *size)) if polygons else None


def describe_mask(mask: npt.NDArray[Any]) -> dict[str, Any]:
    """The "segmentation" (compressed RLE), "area" and "bbox" of a mask, (H, W), for COCO."""
    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
        "area": int(rle.area(encoded)),
        "bbox": rle.toBbox(encoded).tolist(),
    }


def valid_polygons(polygons: Iterable[Sequence[float]]) -> list[Sequence[float]]:
    """The polygons with at least three points; detectron2 skips all others."""
    return [polygon for polygon in polygons if len(polygon) >= 6 and len(polygon) % 2 == 0]
