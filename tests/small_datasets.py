"""Small imitations of public datasets in their original layouts and formats."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from cityscapesscripts.preparation.json2labelImg import json2labelImg

Canvas = npt.NDArray[np.generic]

VISTAS_LABELS = (
    ("animal--bird", "Bird", True, [165, 42, 42]),
    ("construction--barrier--curb", "Curb", False, [196, 196, 196]),
    ("human--person", "Person", True, [220, 20, 60]),
    ("nature--sky", "Sky", False, [70, 130, 180]),
    ("object--vehicle--car", "Car", True, [0, 0, 142]),
    ("void--unlabeled", "Unlabeled", False, [0, 0, 0]),
)
VISTAS_CLASSES = ["Bird", "Person", "Car"]


def random_polygon(rng: np.random.Generator, width: int, height: int) -> list[list[int]]:
    """Return the corners of a triangle or rectangle, a quarter to a half of the image in size."""
    sides = rng.integers((width // 4, height // 4), (width // 2, height // 2))
    x, y = rng.integers(0, (width, height) - sides)
    right, bottom = x + sides[0], y + sides[1]
    corners = [[x, y], [right, y], [right, bottom], [x, bottom]]
    return [[int(x), int(y)] for x, y in corners[: rng.integers(3, 5)]]


def fill(canvas: Canvas, polygon: Sequence[Sequence[int]], color: Sequence[int] | int) -> None:
    """Fill a polygon."""
    cv2.fillPoly(canvas, [np.array(polygon, np.int32)], color)


def write_cityscapes(root: Path, images: int = 3, width: int = 128, height: int = 64) -> None:
    """Write the splits "train" and "val", with two cities each, to ``root``."""
    for split in ("train", "val"):
        for number in range(images):
            rng = np.random.default_rng((len(split), number))
            city = ("aachen", "bochum")[number % 2]
            stem = f"{city}_{number:06d}_000019"
            folders = [root / kind / split / city for kind in ("leftImg8bit", "gtFine")]
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
            image = rng.integers(0, 255, (height, width, 3), np.uint8)
            everywhere = [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]
            objects = [{"label": "road", "polygon": everywhere}]
            for label in ("car", "person", "cargroup", "bicycle", "sky", "car", "license plate"):
                polygon = random_polygon(rng, width, height)
                fill(image, polygon, rng.integers(0, 255, 3).tolist())
                objects.append({"label": label, "polygon": polygon})
            cv2.imwrite(str(folders[0] / f"{stem}_leftImg8bit.png"), image)
            start = str(folders[1] / f"{stem}_gtFine_")
            content = {"imgHeight": height, "imgWidth": width, "objects": objects}
            Path(f"{start}polygons.json").write_text(json.dumps(content))
            annotation = Annotation()
            annotation.fromJsonFile(f"{start}polygons.json")
            # The function of the package saves in a mode that current Pillow does not support.
            instances = np.array(createInstanceImage(annotation, "ids"), np.uint16)
            cv2.imwrite(f"{start}instanceIds.png", instances)
            json2labelImg(f"{start}polygons.json", f"{start}labelIds.png", "ids")


def write_vistas(root: Path, images: int = 4, version: str = "1.2") -> None:
    """Write the splits "training" and "validation" of :data:`VISTAS_LABELS` to ``root``.

    Args:
        root: folder of the unpacked download.
        images: number of images per split.
        version: "1.2" or "2.0"; determines the folder layout.
    """
    labels = [
        {"name": name, "readable": readable, "instances": things, "evaluate": True, "color": color}
        for name, readable, things, color in VISTAS_LABELS
    ]
    root.mkdir(parents=True, exist_ok=True)
    config_name = "config.json" if version == "1.2" else "config_v1.2.json"
    (root / config_name).write_text(json.dumps({"version": "1.2", "labels": labels}))
    if version == "2.0":
        (root / "config_v2.0.json").write_text(json.dumps({"version": "2.0", "labels": []}))
    for split in ("training", "validation"):
        folder = root / split
        maps = folder / "instances" if version == "1.2" else folder / "v1.2" / "instances"
        for path in (folder / "images", maps):
            path.mkdir(parents=True, exist_ok=True)
        for number in range(images):
            rng = np.random.default_rng((len(split), number))
            height, width = 64 + 16 * number, 96
            image = rng.integers(0, 255, (height, width, 3), np.uint8)
            instances = np.full((height, width), 3 * 256, np.uint16)
            # Two instances (0 and 1) of each thing class, and a curb, in random order.
            for value in rng.permutation([0, 1, 256, 512, 513, 1024, 1025]).tolist():
                polygon = random_polygon(rng, width, height)
                fill(image, polygon, rng.integers(0, 255, 3).tolist())
                fill(instances, polygon, value)
            stem = f"vistas_{split}_{number}"
            cv2.imwrite(str(folder / "images" / f"{stem}.jpg"), image)
            cv2.imwrite(str(maps / f"{stem}.png"), instances)
