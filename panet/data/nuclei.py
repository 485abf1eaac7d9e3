"""The nuclei of the 2018 Data Science Bowl: as they are downloaded, and in COCO's format."""

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from detectron2.data.datasets import register_coco_instances
from PIL import Image
from pycocotools import mask as rle

from panet.utils.atomic import open_atomically
from panet.utils.errors import UserError

SPLITS = ("train", "val")
CLASS = "nucleus"

Annotations = list[dict[str, Any]]


class Source(NamedTuple):
    """The files of one image as they are downloaded.

    Attributes:
        id: the name of its folder.
        image: the image.
        masks: one file a nucleus, zero outside of it.
    """

    id: str
    image: Path
    masks: list[Path]


class ConvertedImage(NamedTuple):
    """An entry of COCO's images, and its annotations; their ids are not given yet."""

    image: dict[str, Any]
    annotations: Annotations
    empty_masks: int


def register_nuclei(root: Path) -> None:
    """Register "nuclei_train" and "nuclei_val", which ``tools/prepare_nuclei.py`` writes.

    Args:
        root: has train.json, val.json, and the images of each in a folder of the same name.
    """
    for split in SPLITS:
        register_coco_instances(
            f"nuclei_{split}",
            {"thing_classes": [CLASS]},
            str(root / f"{split}.json"),
            str(root / split),
        )


def find_sources(folder: Path) -> list[Source]:
    """The images of a downloaded folder, in the order of their ids.

    Args:
        folder: has a folder for each image, named by its id, with the image in images/<id>.png and
            masks in masks/*.png. Files beside these, and what begins with "." or "_", are ignored.

    Raises:
        UserError: if there is no such folder, or an image or all its masks are missing.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    sources = []
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith((".", "_")):
            continue
        image = path / "images" / f"{path.name}.png"
        if not image.is_file():
            raise UserError(f"There is no image {image}; give the unpacked stage1_train.")
        masks = sorted(p for p in path.glob("masks/*.png") if not p.name.startswith("."))
        if not masks:
            raise UserError(
                f"{path / 'masks'} has no masks; give the unpacked stage1_train, which has them."
            )
        sources.append(Source(path.name, image, masks))
    if not sources:
        raise UserError(f"{folder} has no folders of images; give the unpacked stage1_train.")
    return sources


def choose_split(image_id: str, val_share: float) -> str:
    """The split of an image, by its id alone: the same one whatever other images there are.

    The first 8 bytes of the id's SHA-256, as a fraction of all their values, are below
    ``val_share`` in "val" and not in "train".
    """
    digest = hashlib.sha256(image_id.encode()).digest()
    return "val" if int.from_bytes(digest[:8], "big") < val_share * 2**64 else "train"


def read_splits(file: Path) -> dict[str, str]:
    """Splits of images by the beginnings of their ids, from a CSV file.

    Args:
        file: with the columns "image" and "split", which is "train" or "val".

    Raises:
        UserError: if it cannot be read, or has something else.
    """
    try:
        with file.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    for number, row in enumerate(rows, start=2):
        if not row.get("image") or row.get("split") not in SPLITS:
            raise UserError(
                f"Line {number} of {file} does not give an image and its split, which is one of "
                f"{', '.join(SPLITS)}, in columns named image and split."
            )
    return {row["image"]: row["split"] for row in rows}


def listed_split(image_id: str, splits: dict[str, str]) -> str | None:
    """The split of an image, by :func:`read_splits`; None if it is in none."""
    return next((split for start, split in splits.items() if image_id.startswith(start)), None)


def convert(source: Source, folder: Path) -> ConvertedImage:
    """Write an image as RGB, and describe it.

    Empty masks are left out.

    Args:
        source: the files.
        folder: to write <id>.png into.

    Raises:
        UserError: if a file cannot be read, or a mask has another size than the image.
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
            annotations.append(_annotation(mask != 0))
    description = {"file_name": file_name, "height": height, "width": width}
    return ConvertedImage(description, annotations, len(source.masks) - len(annotations))


def _read(path: Path, mode: str) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode))
    except Exception as error:
        # Decoders of broken files raise errors of any class.
        raise UserError(
            f"{path} cannot be read as an image: {' '.join(str(error).split())}"
        ) from error


def _annotation(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "category_id": 1,
        "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
        "area": int(rle.area(encoded)),
        "bbox": rle.toBbox(encoded).tolist(),
        "iscrowd": 0,
    }


def to_coco(split: str, images: Iterable[ConvertedImage]) -> dict[str, Any]:
    """The content of a split's JSON file; images and annotations are numbered from 1 on."""
    numbered = list(enumerate(images, 1))
    return {
        "info": {"description": f"2018 Data Science Bowl, stage1_train (BBBC038v1), {split}"},
        "images": [{"id": number, **converted.image} for number, converted in numbered],
        "annotations": [
            {"id": number, **annotation}
            for number, annotation in enumerate(_with_image_ids(numbered), 1)
        ],
        "categories": [{"id": 1, "name": CLASS}],
    }


def _with_image_ids(numbered: Iterable[tuple[int, ConvertedImage]]) -> Iterator[dict[str, Any]]:
    for image_id, converted in numbered:
        for annotation in converted.annotations:
            yield {"image_id": image_id, **annotation}


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write a JSON file, as a whole or not at all."""
    with open_atomically(path, "w") as file:
        json.dump(content, file)
