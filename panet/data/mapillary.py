"""Mapillary Vistas, versions 1.x and 2.0, in its original format."""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from panet.utils.errors import UserError

from .instance_map import NO_OBJECT

SPLITS = {"mapillary_vistas_train": "training", "mapillary_vistas_val": "validation"}
"""The folder of each dataset within the root folder."""


class Layout(NamedTuple):
    """Paths of a split with the labels of version 1.x, which have 37 classes of objects."""

    config_file: Path
    image_dir: Path
    instance_dir: Path


class Labels(NamedTuple):
    """Labels of the dataset's config file.

    Attributes:
        thing_classes: names of the classes of objects.
        thing_colors: RGB colour of each class.
        label_classes: class index for each label of the instance maps, or
            :data:`panet.data.instance_map.NO_OBJECT`.
    """

    thing_classes: list[str]
    thing_colors: list[list[int]]
    label_classes: tuple[int, ...]


def find_layout(root: Path, split: str) -> Layout:
    """Find the files of a split in version 1.x, or in 2.0, which has the labels of both versions.

    Args:
        root: the dataset's folder.
        split: folder in it, "training" or "validation".

    Raises:
        UserError: if the config file or a folder is missing.
    """
    folder = root / split
    layout = Layout(root / "config.json", folder / "images", folder / "instances")
    if not layout.config_file.is_file():
        layout = Layout(root / "config_v1.2.json", folder / "images", folder / "v1.2" / "instances")
    if not layout.config_file.is_file():
        raise UserError(
            f"Mapillary Vistas is incomplete: {root} has neither config.json (version 1) nor "
            "config_v1.2.json (version 2.0)."
        )
    for path in (layout.image_dir, layout.instance_dir):
        if not path.is_dir():
            raise UserError(f"Mapillary Vistas is incomplete: there is no folder {path}.")
    return layout


def read_labels(config_file: Path) -> Labels:
    """Read the classes of objects, in the order of the config file.

    Raises:
        UserError: if the file is not a valid config file.
    """
    try:
        labels = json.loads(config_file.read_text(encoding="utf-8"))["labels"]
        things = [label for label in labels if label["instances"]]
        classes = {label["name"]: index for index, label in enumerate(things)}
        return Labels(
            thing_classes=[label["readable"] for label in things],
            thing_colors=[list(label["color"]) for label in things],
            label_classes=tuple(classes.get(label["name"], NO_OBJECT) for label in labels),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{config_file} is not a config file of Mapillary Vistas; unpack the dataset again."
        ) from error


def read_classes(name: str) -> None:
    """Set a dataset's classes and their colours in its metadata, without reading the dataset.

    Args:
        name: one of :data:`SPLITS`, registered by :func:`register_vistas`.

    Raises:
        UserError: if a folder is missing, or the config file is missing or invalid.
    """
    layout = find_layout(Path(MetadataCatalog.get(name).dirname), SPLITS[name])
    _set_classes(name, read_labels(layout.config_file))


def _set_classes(name: str, labels: Labels) -> None:
    MetadataCatalog.get(name).set(
        thing_classes=labels.thing_classes, thing_colors=labels.thing_colors
    )


def load_vistas(name: str, root: Path) -> list[dict[str, Any]]:
    """Read the records of a dataset and set its classes in its metadata.

    Only the headers of the images are read, and no instance maps. Instead of "annotations", a
    record has "instance_file_name", the path of its instance map, and "label_classes", see
    :class:`Labels`; :class:`panet.data.mapper.InstanceMapMapper` reads both.

    Args:
        name: one of :data:`SPLITS`.
        root: the dataset's folder.

    Raises:
        UserError: if a file is missing or is not an image.
    """
    layout = find_layout(root, SPLITS[name])
    labels = read_labels(layout.config_file)
    _set_classes(name, labels)
    images = sorted(layout.image_dir.glob("*.jpg"))
    if not images:
        raise UserError(f"Mapillary Vistas is incomplete: {layout.image_dir} has no *.jpg.")
    maps = {path.stem: path for path in layout.instance_dir.glob("*.png")}
    for image in images:
        if image.stem not in maps:
            raise UserError(
                f"Mapillary Vistas is incomplete: {image} has no instance map "
                f"{layout.instance_dir / image.stem}.png."
            )
    return [
        {
            "file_name": str(image),
            "image_id": number,
            "width": width,
            "height": height,
            "instance_file_name": str(maps[image.stem]),
            "label_classes": labels.label_classes,
        }
        for number, (image, (width, height)) in enumerate(zip(images, _sizes(images, name)), 1)
    ]


def _sizes(images: list[Path], name: str) -> Iterable[tuple[int, int]]:
    # None shows a progress bar only on a terminal.
    hidden = None if comm.is_main_process() else True
    with ThreadPoolExecutor() as pool:
        sizes = pool.map(_size, images)
        yield from tqdm(sizes, f"sizes of {name}", len(images), leave=False, disable=hidden)


def _size(image: Path) -> tuple[int, int]:
    try:
        with Image.open(image) as header:
            return header.size
    except UnidentifiedImageError:
        raise UserError(f"{image} is not an image; unpack the dataset again.") from None


def register_vistas(root: Path) -> None:
    """Register "mapillary_vistas_train" and "mapillary_vistas_val", stored in ``root``."""
    for name, split in SPLITS.items():
        DatasetCatalog.register(name, partial(load_vistas, name, root))
        MetadataCatalog.get(name).set(
            evaluator_type="mapillary_vistas",
            dirname=str(root),
            image_dir=str(root / split / "images"),
        )
