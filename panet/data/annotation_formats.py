"""Conversion of Labelme, Pascal VOC and YOLO annotations to COCO, based on the package supervision.

The package fills polygons including their border pixels, as annotation tools draw them. Masks are
written as RLE, because polygons traced around the filled ones would lose pixels.
"""

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from panet.utils.errors import UserError

from .coco_file import describe_mask

_EXTENSIONS = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
"""Image formats that the package reads."""


class Item(NamedTuple):
    """An image to convert.

    Attributes:
        image: path of the image.
        file_name: of the image in the result.
        annotation: path of its annotation file; None if it has none.
    """

    image: Path
    file_name: str
    annotation: Path | None


class Converted(NamedTuple):
    """A converted image.

    Attributes:
        file_name: as in :class:`Item`.
        size: width and height in pixels, after its EXIF orientation is applied.
        classes: class name of each object.
        annotations: of each object, "bbox", "area" and, if it has a mask, "segmentation" as RLE.
        remarks: warnings of the package about objects that it skipped.
    """

    file_name: str
    size: tuple[int, int]
    classes: list[str]
    annotations: list[dict[str, Any]]
    remarks: list[str]


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Convert errors of reading a file to a ``UserError`` that names it."""
    try:
        yield
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(
            f"Reading this format requires the package {error.name}; run pip install {error.name}."
        ) from error
    # SyntaxError is raised for invalid XML.
    except (ValueError, LookupError, TypeError, AttributeError, OSError, SyntaxError) as error:
        reason = " ".join(str(error).split())
        reason = f"it has no {reason}" if isinstance(error, KeyError) else reason
        raise UserError(f"{path} cannot be converted: {reason}.") from error


def find_labelme(annotations: Path, images: Path | None = None) -> list[Item]:
    """Find Labelme's JSON files in a folder and its subfolders, and their images.

    Args:
        annotations: the folder.
        images: folder of the images, with the same subfolders; file names are relative to it. None
            if the images are where the JSON files say; file names are relative to ``annotations``
            then.

    Raises:
        UserError: if a file cannot be read.
    """
    items = []
    for path in sorted(annotations.rglob("*.json")):
        with _named_errors(path):
            content = json.loads(path.read_text(encoding="utf-8"))
            stated = PureWindowsPath(content["imagePath"]).as_posix()
        inner = path.parent.relative_to(annotations)
        if images is None:
            items.append(Item(path.parent / stated, (inner / stated).as_posix(), path))
        else:
            name = inner / Path(stated).name
            items.append(Item(images / name, name.as_posix(), path))
    return items


def find_by_stem(annotations: Path, images: Path, extension: str) -> list[Item]:
    """Find the images in a folder and its subfolders, and the annotation files of the same name.

    Args:
        annotations: folder of the annotation files, with the same subfolders.
        images: folder of the images.
        extension: of the annotation files, e.g. ".xml".
    """
    items = []
    for image in sorted(images.rglob("*")):
        if image.suffix.lower() in _EXTENSIONS:
            inner = image.relative_to(images)
            annotation = annotations / inner.with_suffix(extension)
            existing = annotation if annotation.is_file() else None
            items.append(Item(image, inner.as_posix(), existing))
    return items


def find_class_file(annotations: Path) -> Path:
    """Find YOLO's data.yaml in the folder of the labels or in one of its three parents.

    Raises:
        UserError: if it does not exist.
    """
    for folder in (annotations, *annotations.resolve().parents[:3]):
        if (folder / "data.yaml").is_file():
            return folder / "data.yaml"
    raise UserError(
        f"There is no data.yaml with YOLO's class names in {annotations} or its parents; set "
        "--class-file."
    )


def convert_item(
    source: str, item: Item, box_masks: bool = False, class_file: Path | None = None
) -> Converted:
    """Convert the annotations of an image.

    Args:
        source: "labelme", "voc" or "yolo".
        item: the image.
        box_masks: whether objects with only a box get a mask that fills the box.
        class_file: YOLO's data.yaml.

    Raises:
        UserError: if a file is missing or cannot be read, or the package is not installed.
    """
    with _named_errors(item.image), Image.open(item.image) as image:
        size = ImageOps.exif_transpose(image).size
    if item.annotation is None:
        return Converted(item.file_name, size, [], [], [])
    with _named_errors(item.annotation), TemporaryDirectory() as folder:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            dataset = _read(source, item, Path(folder), box_masks, class_file)
        (detections,) = dataset.annotations.values()
        classes = [dataset.classes[index] for index in detections.class_id]
        masks = detections.mask
        if masks is not None and masks.shape[1:] != size[::-1]:
            raise ValueError(
                f"it is for an image of {masks.shape[2]} x {masks.shape[1]}, but {item.image} has "
                f"{size[0]} x {size[1]}"
            )
    remarks = [str(each.message) for each in caught if each.category is UserWarning]
    annotations = [
        _describe(box, None if masks is None else masks[index])
        for index, box in enumerate(detections.xyxy.astype(np.float64))
    ]
    return Converted(item.file_name, size, classes, annotations, remarks)


def _describe(box: npt.NDArray[np.float64], mask: npt.NDArray[np.bool_] | None) -> dict[str, Any]:
    # If other objects of the image have polygons, the mask of one without is empty.
    if mask is None or not mask.any():
        x0, y0, x1, y1 = box.tolist()
        return {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
    return describe_mask(mask)


def _read(source: str, item: Item, folder: Path, box_masks: bool, class_file: Path | None) -> Any:
    """Read one image with the package, which would hold the masks of several in memory at once."""
    from supervision import DetectionDataset  # an optional dependency

    assert item.annotation is not None
    image = folder / "images" / item.image.name
    annotation = folder / "annotations" / item.image.with_suffix(item.annotation.suffix).name
    for link, target in ((image, item.image), (annotation, item.annotation)):
        link.parent.mkdir()
        link.symlink_to(target.resolve())
    arguments: dict[str, Any] = {
        "images_directory_path": str(image.parent),
        "annotations_directory_path": str(annotation.parent),
        "force_masks": box_masks,
    }
    if source == "labelme":
        return DetectionDataset.from_labelme(**arguments)
    if source == "voc":
        return DetectionDataset.from_pascal_voc(**arguments)
    return DetectionDataset.from_yolo(**arguments, data_yaml_path=str(class_file))


def yolo_classes(class_file: Path) -> list[str]:
    """Read the class names of a data.yaml, ordered by index.

    Raises:
        UserError: if it cannot be read.
    """
    with _named_errors(class_file), TemporaryDirectory() as folder:
        from supervision import DetectionDataset

        dataset = DetectionDataset.from_yolo(folder, folder, str(class_file))
        return list(dataset.classes)


def to_coco(converted: Iterable[Converted], classes: Sequence[str] = ()) -> dict[str, Any]:
    """Build the content of a COCO JSON file.

    Args:
        converted: the images.
        classes: all class names in order; by default those that occur, sorted.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    names: list[str] = []
    for image_id, image in enumerate(converted, 1):
        width, height = image.size
        record = {"id": image_id, "file_name": image.file_name, "width": width, "height": height}
        images.append(record)
        names += image.classes
        for annotation in image.annotations:
            common = {"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0}
            annotations.append(common | annotation)
    ids = {name: number for number, name in enumerate(classes or sorted(set(names)), 1)}
    for annotation, name in zip(annotations, names):
        annotation["category_id"] = ids[name]
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}
