"""One file of the results for all images of a folder."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pycocotools import mask as rle

from panet.utils.atomic import open_atomically

from .folder import Record, ResultsFolder, read_json

_COLUMNS = ("image_id", "file_name", "frame", "category_id", "category", "score")
_MEASURES = ("x", "y", "width", "height", "mask_pixels")


@dataclass(frozen=True)
class Summary:
    """What a folder holds: images or frames, and what was found in them."""

    images: int
    detections: int


def merge(folder: ResultsFolder, with_csv: bool = False) -> Summary:
    """Write results.json and images.json, and maybe results.csv, each at once.

    The first is a COCO results file, the second the file of images and categories that belongs to
    it: ``pycocotools.coco.COCO("images.json").loadRes("results.json")`` reads both. Images have ids
    from 1 on, in the order of their names.

    Args:
        folder: all that was ever written to it is merged.
        with_csv: whether to write the CSV file, with one row for each detection.
    """
    images: list[dict[str, Any]] = []
    detections = 0
    with open_atomically(folder.path / "results.json", "w") as stream:
        stream.write("[")
        for record in folder.all_records():
            image = {"id": len(images) + 1, **_without(record, "detections", "stamp")}
            images.append(image)
            for detection in record["detections"]:
                stream.write(",\n" if detections else "\n")
                json.dump({**_origin(image), **detection}, stream)
                detections += 1
        stream.write("\n]\n")
    categories = read_json(folder.categories_file) or []
    with open_atomically(folder.path / "images.json", "w") as stream:
        json.dump({"images": images, "categories": categories, "annotations": []}, stream)
    if with_csv:
        with open_atomically(folder.path / "results.csv", "w") as stream:
            writer = csv.writer(stream)
            writer.writerow([*_COLUMNS, *_MEASURES])
            writer.writerows(_rows(folder))
    return Summary(len(images), detections)


def _without(record: Record, *keys: str) -> Record:
    return {key: value for key, value in record.items() if key not in keys}


def _origin(image: dict[str, Any]) -> dict[str, Any]:
    origin = {"image_id": image["id"], "file_name": image["file_name"]}
    return {**origin, "frame": image["frame"]} if "frame" in image else origin


def _rows(folder: ResultsFolder) -> Iterator[list[Any]]:
    for image_id, record in enumerate(folder.all_records(), start=1):
        for detection in record["detections"]:
            row = {"image_id": image_id, **record, **detection}
            mask = detection.get("segmentation")
            pixels = "" if mask is None else int(rle.area(mask))
            yield [*(row.get(key, "") for key in _COLUMNS), *detection["bbox"], pixels]
