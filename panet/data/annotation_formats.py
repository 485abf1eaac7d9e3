"""Other formats of annotations to COCO's, read by the package supervision.

It fills polygons as the programs that draw them do, border pixels included. Masks are written as
RLE, which keeps every pixel of them; polygons around the filled ones would lose some.
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
from pycocotools import mask as rle

from panet.utils.errors import UserError

_EXTENSIONS = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
"""Of the images that the package reads."""


class Item(NamedTuple):
    """An image to convert.

    Attributes:
        image: its path.
        file_name: how the result shall name it.
        annotation: the path of its file of annotations; None if it has none.
    """

    image: Path
    file_name: str
    annotation: Path | None


class Converted(NamedTuple):
    """An image with its N objects.

    Attributes:
        file_name: as in :class:`Item`.
        size: width and height in pixels, turned as its EXIF orientation says.
        classes: the name of the class of each object.
        boxes: (N, 4), x0, y0, x1, y1 in pixels.
        masks: of each object as RLE; None for those that have a box alone.
        remarks: what the package says that it left out.
    """

    file_name: str
    size: tuple[int, int]
    classes: list[str]
    boxes: npt.NDArray[np.float64]
    masks: list[dict[str, Any] | None]
    remarks: list[str]


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Turn the errors of reading a file into an ``UserError`` that names it."""
    try:
        yield
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(
            f"Other formats are read with the package {error.name}; run pip install {error.name}."
        ) from error
    # SyntaxError is that of a file that is not XML.
    except (ValueError, LookupError, TypeError, AttributeError, OSError, SyntaxError) as error:
        reason = " ".join(str(error).split())
        reason = f"it has no {reason}" if isinstance(error, KeyError) else reason
        raise UserError(f"{path} cannot be converted: {reason}.") from error


def find_labelme(annotations: Path, images: Path | None = None) -> list[Item]:
    """The images of Labelme's JSON files in a folder and its sub-folders.

    Args:
        annotations: the folder.
        images: the folder of the images, with the same sub-folders, which the file names are
            relative to; None if they are where the files say, relative to ``annotations`` then.

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
    """The images in a folder and its sub-folders, with the files of annotations of the same name.

    Args:
        annotations: the folder of these, with the same sub-folders.
        images: the folder.
        extension: of the files of annotations, e.g. ".xml".
    """
    items = []
    for image in sorted(images.rglob("*")):
        if image.suffix.lower() in _EXTENSIONS:
            inner = image.relative_to(images)
            annotation = annotations / inner.with_suffix(extension)
            found = annotation if annotation.is_file() else None
            items.append(Item(image, inner.as_posix(), found))
    return items


def find_class_file(annotations: Path) -> Path:
    """The data.yaml of YOLO's labels: in their folder or in one of the three above it.

    Raises:
        UserError: if there is none.
    """
    for folder in (annotations, *annotations.resolve().parents[:3]):
        if (folder / "data.yaml").is_file():
            return folder / "data.yaml"
    raise UserError(
        f"There is no data.yaml in {annotations} or above it, which names YOLO's classes; give it "
        "with --class-file."
    )


def convert_item(
    source: str, item: Item, box_masks: bool = False, class_file: Path | None = None
) -> Converted:
    """Read an image's annotations.

    Args:
        source: "labelme", "voc" or "yolo".
        item: what to read.
        box_masks: whether objects that have a box alone get a mask, which fills the box.
        class_file: YOLO's file of class names.

    Raises:
        UserError: if a file is missing or cannot be read, or the package is not installed.
    """
    with _named_errors(item.image), Image.open(item.image) as image:
        size = ImageOps.exif_transpose(image).size
    if item.annotation is None:
        return Converted(item.file_name, size, [], np.empty((0, 4)), [], [])
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
    boxes = detections.xyxy.astype(np.float64)
    encoded = [None if masks is None else _encode(masks[place]) for place in range(len(boxes))]
    return Converted(item.file_name, size, classes, boxes, encoded, remarks)


def _encode(mask: npt.NDArray[np.bool_]) -> dict[str, Any] | None:
    # In an image with polygons, the mask of an object that has none is empty.
    if not mask.any():
        return None
    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def _read(source: str, item: Item, folder: Path, box_masks: bool, class_file: Path | None) -> Any:
    """The package's dataset of one image; of many it would hold all masks in memory at once."""
    from supervision import DetectionDataset  # not among the requirements

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
    """The names of a data.yaml in the order of their numbers.

    Raises:
        UserError: if it cannot be read.
    """
    with _named_errors(class_file), TemporaryDirectory() as folder:
        from supervision import DetectionDataset

        dataset = DetectionDataset.from_yolo(folder, folder, str(class_file))
        return list(dataset.classes)


def to_coco(converted: Iterable[Converted], classes: Sequence[str] = ()) -> dict[str, Any]:
    """The content of a COCO JSON file.

    Args:
        converted: the images.
        classes: all names in order; by default those that occur, sorted.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    names: list[str] = []
    for image_id, image in enumerate(converted, 1):
        width, height = image.size
        record = {"id": image_id, "file_name": image.file_name, "width": width, "height": height}
        images.append(record)
        for name, box, mask in zip(image.classes, image.boxes, image.masks):
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0}
            annotations.append(annotation | _shape(box, mask))
            names.append(name)
    ids = {name: number for number, name in enumerate(classes or sorted(set(names)), 1)}
    for annotation, name in zip(annotations, names):
        annotation["category_id"] = ids[name]
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _shape(box: npt.NDArray[np.float64], mask: dict[str, Any] | None) -> dict[str, Any]:
    """An annotation's mask, if it has one, and the box and the area of it."""
    if mask is None:
        x0, y0, x1, y1 = box.tolist()
        return {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
    return {"segmentation": mask, "bbox": rle.toBbox(mask).tolist(), "area": int(rle.area(mask))}
