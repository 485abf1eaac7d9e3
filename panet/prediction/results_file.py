"""Merging of the records of a result folder into COCO and CSV files."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pycocotools import mask as rle

from panet.utils.atomic import open_atomically

from .folder import ResultsFolder, read_json

_COLUMNS = ("image_id", "file_name", "frame", "category_id", "category", "score")
_MEASURES = ("x", "y", "width", "height", "mask_pixels")


@dataclass(frozen=True)
class Summary:
    """Number of images and frames in a folder, and of detections in them."""

    images: int
    detections: int


def merge(folder: ResultsFolder, with_csv: bool = False) -> Summary:
    """Write results.json, images.json and optionally results.csv, each atomically.

    results.json is a COCO results file and images.json its images and categories:
    ``pycocotools.coco.COCO("images.json").loadRes("results.json")`` reads both. Image ids count
    from 1, in the order of image names.

    Args:
        folder: result folder, all records of which are merged.
        with_csv: whether to write results.csv, with one row for each detection.
    """
    images: list[dict[str, Any]] = []
    detections = 0
    with open_atomically(folder.path / "results.json", "w") as stream:
        stream.write("[")
        for record in folder.all_records():
            image = {k: v for k, v in record.items() if k not in ("detections", "stamp")}
            images.append({"id": len(images) + 1, **image})
            origin = {"image_id": len(images), "file_name": image["file_name"]}
            if "frame" in image:
                origin["frame"] = image["frame"]
            for detection in record["detections"]:
                stream.write(",\n" if detections else "\n")
                json.dump({**origin, **detection}, stream)
                detections += 1
        stream.write("\n]\n")
    categories = read_json(folder.categories_file) or []
    with open_atomically(folder.path / "images.json", "w") as stream:
        json.dump({"images": images, "categories": categories, "annotations": []}, stream)
    if with_csv:
        # File names that are not UTF-8 are written with their original bytes.
        with open_atomically(folder.path / "results.csv", "w", errors="surrogateescape") as stream:
            writer = csv.writer(stream)
            writer.writerow([*_COLUMNS, *_MEASURES])
            writer.writerows(_rows(folder))
    return Summary(len(images), detections)


def _rows(folder: ResultsFolder) -> Iterator[list[Any]]:
    for image_id, record in enumerate(folder.all_records(), start=1):
        for detection in record["detections"]:
            row = {"image_id": image_id, **record, **detection}
            mask = detection.get("segmentation")
            pixels = "" if mask is None else int(rle.area(mask))
            yield [*(row.get(key, "") for key in _COLUMNS), *detection["bbox"], pixels]
