"""The original files of the 2018 Data Science Bowl, and their conversion to COCO format."""

import csv
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from panet.data.coco_file import describe_mask
from panet.utils.atomic import open_atomically
from panet.utils.errors import UserError

SPLITS = ("train", "val")
CLASS = "nucleus"


class Source(NamedTuple):
    """The original files of one image.

    Attributes:
        id: name of its folder.
        image: path of the image.
        masks: one file per nucleus, nonzero inside it.
    """

    id: str
    image: Path
    masks: list[Path]


class ConvertedImage(NamedTuple):
    """An entry of COCO's images and its annotations, both without ids."""

    image: dict[str, Any]
    annotations: list[dict[str, Any]]
    empty_masks: int


def find_sources(folder: Path) -> list[Source]:
    """Find the images in the original folder, ordered by id.

    Args:
        folder: has a folder for each image, named after its id, with the image in images/<id>.png
            and masks in masks/*.png. Other files, and names that begin with "." or "_", are
            ignored.

    Raises:
        UserError: if the folder, an image or all of its masks are missing.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    sources = []
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith((".", "_")):
            continue
        image = path / "images" / f"{path.name}.png"
        if not image.is_file():
            raise UserError(f"There is no image {image}; pass the unpacked stage1_train.")
        masks = sorted(p for p in path.glob("masks/*.png") if not p.name.startswith("."))
        if not masks:
            raise UserError(f"{path / 'masks'} has no masks; pass the unpacked stage1_train.")
        sources.append(Source(path.name, image, masks))
    if not sources:
        raise UserError(f"{folder} has no folders of images; pass the unpacked stage1_train.")
    return sources


def choose_split(image_id: str, val_share: float) -> str:
    """Choose the split of an image from its id alone, independently of all other images.

    It is "val" if the first 8 bytes of the id's SHA-256, as a fraction of their range, are below
    ``val_share``, and "train" otherwise.
    """
    digest = hashlib.sha256(image_id.encode()).digest()
    return "val" if int.from_bytes(digest[:8], "big") < val_share * 2**64 else "train"


def read_splits(file: Path) -> dict[str, str]:
    """Read the splits of images, by prefixes of their ids, from a CSV file.

    Args:
        file: with the columns "image" and "split", which is "train" or "val".

    Raises:
        UserError: if it cannot be read or a row is invalid.
    """
    try:
        with file.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    for number, row in enumerate(rows, start=2):
        if not row.get("image") or row.get("split") not in SPLITS:
            raise UserError(
                f"Line {number} of {file} does not have an image in a column 'image' and one of "
                f"{', '.join(SPLITS)} in a column 'split'."
            )
    return {row["image"]: row["split"] for row in rows}


def listed_split(image_id: str, splits: dict[str, str]) -> str | None:
    """Look up the split of an image in those of :func:`read_splits`; None if it has none."""
    return next((split for start, split in splits.items() if image_id.startswith(start)), None)


def convert(source: Source, folder: Path) -> ConvertedImage:
    """Write an image as RGB and convert its masks to annotations. Empty masks are skipped.

    Args:
        source: the files.
        folder: where to write <id>.png.

    Raises:
        UserError: if a file cannot be read, or a mask and the image differ in size.
    """
    image = _read(source.image, "RGB")
    file_name = f"{source.id}.png"
    with open_atomically(folder / file_name) as file:
        Image.fromarray(image).save(file, "PNG")
    height, width = image.shape[:2]
    annotations = []
    for path in source.masks:
        mask = _read(path, "L")
        if mask.shape != (height, width):
            raise UserError(
                f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels, but its image is {width} x "
                f"{height}; download it again."
            )
        if mask.any():
            annotations.append({"category_id": 1, **describe_mask(mask != 0), "iscrowd": 0})
    description = {"file_name": file_name, "height": height, "width": width}
    return ConvertedImage(description, annotations, len(source.masks) - len(annotations))


def _read(path: Path, mode: str) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode))
    except Exception as error:
        # Decoders raise errors of any class for broken files.
        raise UserError(
            f"{path} cannot be read as an image: {' '.join(str(error).split())}"
        ) from error


def to_coco(split: str, images: Iterable[ConvertedImage]) -> dict[str, Any]:
    """Build the content of a split's JSON file; image and annotation ids start at 1."""
    numbered = list(enumerate(images, 1))
    annotations = (
        {"image_id": image_id, **annotation}
        for image_id, converted in numbered
        for annotation in converted.annotations
    )
    return {
        "info": {"description": f"2018 Data Science Bowl, stage1_train (BBBC038v1), {split}"},
        "images": [{"id": number, **converted.image} for number, converted in numbered],
        "annotations": [{"id": number, **each} for number, each in enumerate(annotations, 1)],
        "categories": [{"id": 1, "name": CLASS}],
    }


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write a JSON file atomically."""
    with open_atomically(path, "w") as file:
        json.dump(content, file)
