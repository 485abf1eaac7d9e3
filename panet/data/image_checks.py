"""Defects of image files, read as detectron2 reads them."""

import hashlib
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.data.detection_utils import read_image
from PIL import Image

from .json_checks import Defect

_DEEP_MODES = ("I", "F")
"""How Pillow's modes with more than 8 bits a pixel begin."""


class CheckedImage(NamedTuple):
    """An image file, and what is wrong with it.

    Attributes:
        id: the image's id in the JSON file.
        path: of the image.
        digest: the same for files of the same content; "" if there is no file.
        defects: what is wrong.
    """

    id: Any
    path: str
    digest: str
    defects: list[Defect]


def check_images(
    content: dict[str, Any], image_root: Path, processes: int = 1
) -> Iterator[CheckedImage]:
    """Read all images of a dataset, in order.

    Args:
        content: of the JSON file; images without a file name are left out.
        image_root: the folder that its file names begin in.
        processes: how many shall read.
    """
    images = [
        (image, image_root)
        for image in content["images"]
        if isinstance(image, dict) and isinstance(image.get("file_name"), str)
    ]
    if processes == 1:
        yield from map(_check_one, images)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(_check_one, images, chunksize=16)


def _check_one(job: tuple[dict[str, Any], Path]) -> CheckedImage:
    return check_image(*job)


def check_image(image: dict[str, Any], image_root: Path) -> CheckedImage:
    """Read one image.

    Args:
        image: an entry of the JSON file's images.
        image_root: the folder that its file name begins in.
    """
    path = image_root / image["file_name"]
    where = f"image {image.get('id')}"
    if not path.is_file():
        defect = Defect("error", str(path), where, "is missing")
        return CheckedImage(image.get("id"), str(path), "", [defect])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    fault = _fault(path, image.get("width"), image.get("height"))
    defects = [Defect("error", str(path), where, fault)] if fault else []
    return CheckedImage(image.get("id"), str(path), digest, defects)


def _fault(path: Path, width: Any, height: Any) -> str:
    try:
        # Pillow warns of large images and of odd metadata, which do no harm here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = read_image(str(path), "BGR")
            with Image.open(path) as header:
                mode, size = header.mode, header.size
                deepest = np.asarray(header).max() if mode.startswith(_DEEP_MODES) else 0
    except Exception as error:
        # Decoders of broken files raise errors of any class.
        return f"cannot be read: {' '.join(str(error).split()) or type(error).__name__}"
    if (pixels.shape[1], pixels.shape[0]) != (width, height):
        turned = size == (width, height)
        return (
            f"is {pixels.shape[1]} x {pixels.shape[0]} pixels"
            f"{' when turned as its EXIF orientation says' if turned else ''}, but {width} x "
            f"{height} in the JSON file"
        )
    if deepest > 255:
        return f"has more than 8 bits a pixel (mode {mode}), which are read as white above 255"
    return ""


def duplicated_content(
    images: list[CheckedImage], others: list[CheckedImage], file: str, other_file: str
) -> list[Defect]:
    """A warning for every image of ``others`` with the content of one in ``images``.

    Args:
        images: of one dataset.
        others: of another dataset, or the same ones to compare them with each other.
        file: the JSON file of ``images``.
        other_file: that of ``others``.
    """
    first: dict[str, CheckedImage] = {}
    for image in images:
        if image.digest:
            first.setdefault(image.digest, image)
    defects = []
    for image in others:
        same = first.get(image.digest)
        if same is not None and same is not image:
            what = f"has the content of image {same.id} of {file}, {same.path}"
            defects.append(Defect("warning", other_file, f"image {image.id}", what))
    return defects
