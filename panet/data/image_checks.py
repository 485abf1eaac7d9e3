"""Defects of image files, read as detectron2 reads them."""

import hashlib
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.data.detection_utils import read_image
from PIL import Image

from .coco_file import entries
from .json_checks import Defect

_DEEP_MODES = ("I", "F")
"""Prefixes of Pillow's modes with more than 8 bits per channel."""


class CheckedImage(NamedTuple):
    """An image file and its defects.

    Attributes:
        id: of the image in the JSON file.
        path: of the file.
        digest: SHA-256 of the file's content; "" if it does not exist.
        defects: of the file.
    """

    id: Any
    path: str
    digest: str
    defects: list[Defect]


def check_images(
    content: dict[str, Any], image_root: Path, processes: int = 1
) -> Iterator[CheckedImage]:
    """Read and check all images of a dataset, in order.

    Args:
        content: of the JSON file; images without a file name are skipped.
        image_root: folder that its file names are relative to.
        processes: number of processes that read images.
    """
    images = entries(content, "images", file_name=str)
    if processes == 1:
        yield from map(check_image, images, repeat(image_root))
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(check_image, images, repeat(image_root), chunksize=16)


def check_image(image: dict[str, Any], image_root: Path) -> CheckedImage:
    """Read and check one image.

    Args:
        image: an entry of "images" in the JSON file.
        image_root: folder that its file name is relative to.
    """
    path = image_root / image["file_name"]
    if path.is_file():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        fault = _fault(path, image.get("width"), image.get("height"))
    else:
        digest, fault = "", "is missing"
    number = image.get("id")
    defects = [Defect("error", str(path), f"image {number}", fault)] if fault else []
    return CheckedImage(number, str(path), digest, defects)


def _fault(path: Path, width: Any, height: Any) -> str:
    try:
        # Pillow warns about large images and odd metadata, which are harmless here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = read_image(str(path), "BGR")
            with Image.open(path) as header:
                mode, size = header.mode, header.size
                deepest = np.asarray(header).max() if mode.startswith(_DEEP_MODES) else 0
    except Exception as error:
        # Decoders raise errors of any class for broken files.
        return f"cannot be read: {' '.join(str(error).split()) or type(error).__name__}"
    if (pixels.shape[1], pixels.shape[0]) != (width, height):
        rotated = " after its EXIF orientation is applied" if size == (width, height) else ""
        return (
            f"is {pixels.shape[1]} x {pixels.shape[0]} pixels{rotated}, but {width} x {height} in "
            "the JSON file"
        )
    if deepest > 255:
        return f"has more than 8 bits per channel (mode {mode}); values above 255 are read as white"
    return ""


def duplicated_content(
    images: list[CheckedImage], others: list[CheckedImage], file: str, other_file: str
) -> list[Defect]:
    """Report a warning for each image of ``others`` with the same content as one in ``images``.

    Args:
        images: of one dataset.
        others: of another dataset, or the same list to compare its images with each other.
        file: JSON file of ``images``.
        other_file: JSON file of ``others``.
    """
    first: dict[str, CheckedImage] = {}
    for image in images:
        if image.digest:
            first.setdefault(image.digest, image)
    defects = []
    for image in others:
        same = first.get(image.digest)
        if same is not None and same is not image:
            what = f"has the same content as image {same.id} of {file}, {same.path}"
            defects.append(Defect("warning", other_file, f"image {image.id}", what))
    return defects
