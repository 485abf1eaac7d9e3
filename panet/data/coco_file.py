"""COCO JSON files of any origin: what is in them, and a copy that COCO's metrics can read."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from pycocotools import mask as rle

from panet.utils.atomic import open_atomically
from panet.utils.errors import UserError


@dataclass
class MaskKinds:
    """How many annotations of a class have their mask as polygons, as RLE, or have none.

    Attributes:
        example: the id of the first without.
    """

    polygons: int = 0
    rles: int = 0
    missing: int = 0
    example: Any = None

    def count(self, annotation: dict[str, Any]) -> None:
        """Count one annotation."""
        segmentation = annotation.get("segmentation")
        if not segmentation:
            if self.missing == 0:
                self.example = annotation.get("id")
            self.missing += 1
        elif isinstance(segmentation, dict):
            self.rles += 1
        else:
            self.polygons += 1

    @property
    def total(self) -> int:
        """All annotations of the class."""
        return self.polygons + self.rles + self.missing


@dataclass
class Contents:
    """What a file says of its classes.

    Attributes:
        categories: the name for each category id, in the order of the ids.
        masks: for the name of each class, the masks of its annotations.
    """

    categories: dict[int, str]
    masks: dict[str, MaskKinds] = field(default_factory=dict)


def read_coco_json(path: Path) -> dict[str, Any]:
    """The content of a file.

    Raises:
        UserError: if it is not there, or is not a JSON object.
    """
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); write it again.") from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} is not in COCO's format; it must be a JSON object with the keys images, "
            "annotations and categories."
        )
    return content


def summarize(content: dict[str, Any]) -> Contents:
    """What a file with well-formed categories says of its classes, see :class:`Contents`."""
    contents = Contents(category_names(content))
    for name in contents.categories.values():
        contents.masks[name] = MaskKinds()
    annotations = content.get("annotations")
    for annotation in annotations if isinstance(annotations, list) else ():
        if isinstance(annotation, dict):
            number = annotation.get("category_id")
            if isinstance(number, int) and number in contents.categories:
                contents.masks[contents.categories[number]].count(annotation)
    return contents


def category_names(content: dict[str, Any]) -> dict[int, str]:
    """The name for each category id, in the order of the ids; they must be well-formed."""
    return dict(sorted((category["id"], category["name"]) for category in content["categories"]))


def class_ids(categories: dict[int, str], classes: Sequence[str]) -> list[int]:
    """The category ids of ``classes`` in a file for evaluation.

    detectron2 takes the classes to be in the order of their ids. So they are the file's own ids if
    these are in this order and the file has all classes, and else 1, 2, ...
    """
    own = {name: number for number, name in categories.items()}
    ids = [own[name] for name in classes if name in own]
    return ids if len(ids) == len(classes) and ids == sorted(ids) else [*range(1, len(classes) + 1)]


def write_evaluation_file(
    content: dict[str, Any], classes: Sequence[str], path: Path
) -> dict[int, int]:
    """Write what COCO's metrics need of a file, and of ``classes`` alone.

    They need an area and a crowd flag for each annotation, which many files lack, and fail without
    a word on an annotation whose id is 0.

    Args:
        content: of the file; without "annotations" it stays so.
        classes: names, in the order of the model's classes.
        path: to write; its folder is made.

    Returns:
        For each category id in the new file, the index of its class.
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
    return {number: index for index, number in enumerate(ids)}


def annotation_area(annotation: dict[str, Any], size: tuple[int, int]) -> float:
    """The area that an annotation states, or else that of its mask, or else of its box.

    Args:
        annotation: of a COCO file.
        size: height and width of its image.

    Returns:
        In square pixels.
    """
    if isinstance(annotation.get("area"), int | float):
        return float(annotation["area"])
    encoded = encode_segmentation(annotation.get("segmentation"), size)
    if encoded is None:
        _, _, width, height = annotation["bbox"]
        return float(width * height)
    return float(rle.area(encoded))


def encode_segmentation(segmentation: Any, size: tuple[int, int]) -> dict[str, Any] | None:
    """A mask as compressed RLE.

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


def valid_polygons(polygons: Iterable[Sequence[float]]) -> list[Sequence[float]]:
    """Those of at least three points, which alone detectron2 reads."""
    return [polygon for polygon in polygons if len(polygon) >= 6 and len(polygon) % 2 == 0]
