"""The embedded dataset: synthetic images of textured, overlapping shapes over clutter.

Colour and texture are independent of the class, and all shapes are rotated and stretched, so that
only the outline determines the class. Sizes range from 8 to 200 pixels; small ones are more
frequent.
"""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from filelock import FileLock

from panet.utils.atomic import open_atomically

from .coco_file import describe_mask

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]
Canvas = npt.NDArray[np.float32]
Window = tuple[slice, slice]
"""Rows and columns of a region of an image."""

VERSION = 1
"""Part of the folder's name; increase it with every change of the images or annotations."""

IMAGE_SIZE = 256
"""Height and width of every image, in pixels."""
MIN_EXTENT, MAX_EXTENT = 8, 200
MIN_VISIBLE_FRACTION = 0.7
MIN_VISIBLE_PIXELS = 24
ATTEMPTS = 3
"""How often a shape that would hide others is redrawn before it is skipped."""


@dataclass(frozen=True)
class Split:
    """Name, number of images and seed of a split."""

    name: str
    num_images: int
    seed: int


SPLITS = (Split("train", 2000, seed=1), Split("val", 250, seed=2))


def _regular_polygon(corners: int, first: float = 0.0) -> Points:
    """Corners on the unit circle, the first one at the angle ``first`` from the top, (N, 2)."""
    angle = 2 * np.pi * np.arange(corners) / corners + first
    return np.stack([np.sin(angle), -np.cos(angle)], axis=1)


OUTLINES: dict[str, Points] = {
    "disk": _regular_polygon(48),
    "square": _regular_polygon(4, first=np.pi / 4),
    "triangle": _regular_polygon(3),
    "star": np.tile([1.0, 0.45], 5)[:, None] * _regular_polygon(10),
}
"""The contour of each class within the unit circle."""

CATEGORIES = tuple(OUTLINES)


def draw_image(seed: int, index: int) -> tuple[Image, list[int], list[Mask]]:
    """Draw one image of the dataset.

    Args:
        seed: of the split.
        index: of the image in the split.

    Returns:
        The image, (256, 256, 3) BGR; for each object, from back to front, the index of its class
        in :data:`CATEGORIES` and the visible part of its mask, (256, 256).
    """
    rng = np.random.default_rng((seed, index))
    image = _background(rng)
    kinds: list[int] = []
    full_areas: list[int] = []
    areas: list[int] = []  # of the visible parts
    visible: list[Mask] = []
    for _ in range(rng.integers(5, 13)):
        kind = int(rng.integers(len(CATEGORIES)))
        for _ in range(ATTEMPTS):
            mask, window = _place(rng, OUTLINES[CATEGORIES[kind]])
            # Work within the window of the shape, because most shapes are small.
            part = mask[window]
            area = int(np.count_nonzero(part))
            hidden = [int(np.count_nonzero(old[window] & part)) for old in visible]
            remaining = [old - less for old, less in zip(areas, hidden)]
            if _all_visible([*remaining, area], [*full_areas, area]):
                _paint(rng, image, mask, window)
                for old in visible:
                    old[window] &= ~part
                kinds.append(kind)
                full_areas.append(area)
                areas = [*remaining, area]
                visible.append(mask)
                break
    noise = rng.uniform(2.0, 10.0) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image + noise, 0, 255).astype(np.uint8), kinds, visible


def _all_visible(areas: list[int], full_areas: list[int]) -> bool:
    """Whether enough of every shape is visible, given the visible and the full areas."""
    return all(
        area >= max(MIN_VISIBLE_PIXELS, MIN_VISIBLE_FRACTION * full_area)
        for area, full_area in zip(areas, full_areas)
    )


def _place(rng: np.random.Generator, outline: Points) -> tuple[Mask, Window]:
    """Draw a shape of random size, rotation, stretch and position, clipped at the border.

    Returns:
        Its mask, (256, 256), and a window that contains it.
    """
    extent = rng.uniform(MIN_EXTENT**0.5, MAX_EXTENT**0.5) ** 2
    axis = _rotation(rng.uniform(0, np.pi))
    stretch = np.exp(rng.uniform(-0.2, 0.2))
    linear = axis @ np.diag([stretch, 1 / stretch]) @ axis.T @ _rotation(rng.uniform(-0.5, 0.5))
    margin = extent / 4
    center = rng.uniform(margin, IMAGE_SIZE - margin, size=2)
    # Number of fractional bits of OpenCV's fixed-point coordinates.
    bits = 4
    contour = np.round((extent / 2 * outline @ linear.T + center) * 2**bits).astype(np.int32)
    mask = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    cv2.fillPoly(mask, [contour], 1, shift=bits)
    left, top = np.maximum(contour.min(axis=0) // 2**bits, 0)
    right, bottom = contour.max(axis=0) // 2**bits + 2  # one more for rounding
    return mask.astype(bool), (slice(top, bottom), slice(left, right))


def _rotation(angle: float) -> Points:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _background(rng: np.random.Generator) -> Canvas:
    """Draw a gradient with cloudy texture, and strokes that are not objects."""
    coarse = rng.uniform(30, 225, size=(2, 2, 3)).astype(np.float32)
    image = _enlarge(coarse)
    cells = int(rng.integers(4, 33))
    clouds = rng.normal(0, rng.uniform(2, 16), size=(cells, cells, 3)).astype(np.float32)
    image += _enlarge(clouds)
    for _ in range(rng.integers(3, 13)):
        start = rng.uniform(0, IMAGE_SIZE, size=2)
        steps = rng.normal(0, rng.uniform(4, 40), size=(rng.integers(2, 6), 2))
        path = np.concatenate([start[None], start + np.cumsum(steps, axis=0)])
        thickness = int(rng.integers(1, 4))
        cv2.polylines(
            image, [path.astype(np.int32)], False, rng.uniform(0, 255, 3).tolist(), thickness
        )
    return image


def _enlarge(values: Canvas) -> Canvas:
    """Interpolate a coarse grid smoothly to the size of the image."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_CUBIC), np.float32)


def _paint(rng: np.random.Generator, image: Canvas, mask: Mask, window: Window) -> None:
    """Fill a mask with a texture of two colours, the first one different from the image below.

    Args:
        rng: for the texture and its colours.
        image: modified in place.
        mask: (256, 256).
        window: contains the mask.
    """
    mask = mask[window]
    under = image[window][mask].mean(axis=0)
    color = rng.uniform(0, 255, 3)
    while np.abs(color - under).max() < 100:
        color = rng.uniform(0, 255, 3)
    other = np.clip(color + rng.uniform(-50, 50, 3), 0, 255)
    share = TEXTURES[rng.integers(len(TEXTURES))](rng, window)[mask][:, None]
    image[window][mask] = color * (1 - share) + other * share


def _coordinates(rng: np.random.Generator, window: Window) -> tuple[Canvas, Canvas]:
    """Coordinates along two perpendicular axes at a random angle, in pixels, for a window."""
    y, x = _Y[window], _X[window]
    angle = np.float32(rng.uniform(0, np.pi))
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


_Y, _X = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE].astype(np.float32)


def _wave(coordinate: Canvas, period: float) -> Canvas:
    return np.sin(coordinate * np.float32(2 * np.pi / period))


def _plain(_rng: np.random.Generator, window: Window) -> Canvas:
    return np.zeros_like(_X[window])


def _stripes(rng: np.random.Generator, window: Window) -> Canvas:
    along, _ = _coordinates(rng, window)
    return (_wave(along, rng.uniform(5, 24)) > 0).astype(np.float32)


def _checks(rng: np.random.Generator, window: Window) -> Canvas:
    along, across = _coordinates(rng, window)
    period = rng.uniform(6, 30)
    return (_wave(along, period) * _wave(across, period) > 0).astype(np.float32)


def _gradient(rng: np.random.Generator, window: Window) -> Canvas:
    along, _ = _coordinates(rng, window)
    return 0.5 + 0.5 * _wave(along, rng.uniform(100, 400))


def _mottle(rng: np.random.Generator, window: Window) -> Canvas:
    cells = int(rng.integers(16, 97))
    return _enlarge(rng.random((cells, cells), np.float32))[window]


TEXTURES: tuple[Callable[[np.random.Generator, Window], Canvas], ...] = (
    _plain,
    _stripes,
    _checks,
    _gradient,
    _mottle,
)


def write_split(split: Split, image_root: Path, json_file: Path) -> None:
    """Write the images of a split to ``image_root`` and its annotations to ``json_file``.

    If ``json_file`` exists, nothing is done. It is written last and atomically, so that an
    interrupted run leaves no incomplete dataset behind.
    """
    json_file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{json_file}.lock"):
        if json_file.exists():
            return
        shutil.rmtree(image_root, ignore_errors=True)
        image_root.mkdir(parents=True)

        def draw(index: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
            image, kinds, masks = draw_image(split.seed, index)
            file_name = f"{index + 1:06d}.jpg"
            cv2.imwrite(str(image_root / file_name), image, [cv2.IMWRITE_JPEG_QUALITY, 92])
            record = {
                "id": index + 1,
                "file_name": file_name,
                "height": IMAGE_SIZE,
                "width": IMAGE_SIZE,
            }
            annotations = [
                {"image_id": index + 1, "category_id": kind + 1, **describe_mask(mask)}
                for kind, mask in zip(kinds, masks)
            ]
            return record, annotations

        with ThreadPoolExecutor() as pool:
            drawn = list(pool.map(draw, range(split.num_images)))
        annotations = chain.from_iterable(per_image for _, per_image in drawn)
        content = {
            "info": {"description": f"panet shapes, {split.name}, seed {split.seed}"},
            "images": [record for record, _ in drawn],
            "annotations": [
                {"id": number, **annotation, "iscrowd": 0}
                for number, annotation in enumerate(annotations, 1)
            ],
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CATEGORIES)],
        }
        with open_atomically(json_file, "w") as file:
            json.dump(content, file)
