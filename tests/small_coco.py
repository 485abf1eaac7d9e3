"""A small COCO dataset with all mask formats."""

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle

WIDTH, HEIGHT = 64, 48
CATEGORIES = {0: "cat", 7: "dog", 900001: "owl"}


def square_mask(x: int, y: int, side: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + side, x : x + side] = 1
    return mask


def segmentation(kind: str, x: int, y: int, side: int) -> Any:
    """Encode the mask of a square as polygons, compressed or uncompressed RLE."""
    if kind == "polygons":
        return [[x, y, x + side, y, x + side, y + side, x, y + side]]
    flat = square_mask(x, y, side).flatten(order="F")
    if kind == "uncompressed":
        edges = np.flatnonzero(np.diff(flat)) + 1
        return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *edges, flat.size]).tolist()}
    encoded = rle.encode(np.asfortranarray(square_mask(x, y, side)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def content(images: int = 4, kinds: Sequence[str] = ("polygons",)) -> dict[str, Any]:
    """Create annotations: one object per class and image, ids from 0, images in subfolders."""
    records, annotations = [], []
    for number in range(images):
        name = f"{'day' if number % 2 else 'night'}/{number}.png"
        records.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for place, category in enumerate(CATEGORIES):
            x, y, side = 3 + 20 * place, 5 + number, 12 + number
            annotation: dict[str, Any] = {
                "id": len(annotations),
                "image_id": number,
                "category_id": category,
                "bbox": [x, y, side, side],
            }
            kind = kinds[len(annotations) % len(kinds)]
            if kind != "none":
                annotation["segmentation"] = segmentation(kind, x, y, side)
            annotations.append(annotation)
    categories = [{"id": number, "name": name} for number, name in CATEGORIES.items()]
    return {"images": records, "annotations": annotations, "categories": categories[::-1]}


def write(folder: Path, content: dict[str, Any], name: str = "train") -> tuple[Path, Path]:
    """Write the JSON file and the images, and return the paths of file and image folder."""
    rng = np.random.default_rng(list(name.encode()))
    for image in content["images"]:
        path = folder / name / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (image["height"], image["width"], 3), np.uint8)
        cv2.imwrite(str(path), pixels)
    json_file = folder / f"{name}.json"
    json_file.write_text(json.dumps(content))
    return json_file, folder / name


def damaged(sound: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield copies of valid content with one wrong value, for every place in it."""
    for value in (None, True, 3, -1, 2.5, "a", [], [1], [[1]], {}, {"id": 1}):
        for part, entries in sound.items():
            yield {**sound, part: value}
            yield {**sound, part: [value, *entries[1:]]}
            for place, entry in enumerate(entries):
                for key in entry:
                    content = copy.deepcopy(sound)
                    content[part][place][key] = value
                    yield content
                    if key == "segmentation" and isinstance(entry[key], dict):
                        for inner in ("size", "counts"):
                            content = copy.deepcopy(sound)
                            content[part][place][key][inner] = value
                            yield content
