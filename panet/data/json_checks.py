"""Defects of datasets in COCO's format, as far as their JSON file and the file names tell them.

Errors are what training does not survive, or what it would learn or measure wrong without a word.
All else is a warning.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from panet.utils.errors import UserError

from .annotation_checks import LEFT_OUT, annotation_findings
from .coco_file import category_names

Severity = Literal["error", "warning"]


class Defect(NamedTuple):
    """Something wrong in a dataset.

    Attributes:
        severity: "error" if no training should start with it.
        file: the JSON file or the image that it is in.
        id: "image 3", "annotation 7", "category 1", or "" for a whole file.
        what: the sentence's predicate, e.g. "has no key bbox".
    """

    severity: Severity
    file: str
    id: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {f'{self.id} ' if self.id else ''}{self.what}"


class DatasetError(UserError):
    """A dataset has defects that no training should start with.

    Attributes:
        defects: all that were found, warnings too.
    """

    def __init__(self, defects: Sequence[Defect]) -> None:
        self.defects = list(defects)
        errors = [str(defect) for defect in defects if defect.severity == "error"]
        more = f"; and {len(errors) - 10} more" if len(errors) > 10 else ""
        super().__init__(
            f"The data has {len(errors)} error{'s' if len(errors) > 1 else ''}, mend them or see "
            f"all with tools/check_dataset.py: {'; '.join(errors[:10])}{more}."
        )


def refuse_errors(defects: Sequence[Defect]) -> None:
    """Raise what is wrong.

    Raises:
        DatasetError: if one of ``defects`` is an error; the first ten are named.
    """
    if any(defect.severity == "error" for defect in defects):
        raise DatasetError(defects)


def check_categories(content: dict[str, Any], file: str) -> list[Defect]:
    """Defects of the list of categories; all else can be read only if there are none.

    Args:
        content: of a JSON file.
        file: its path.
    """
    categories = content.get("categories")
    if not isinstance(categories, list) or not categories:
        return [Defect("error", file, "", "has no list of categories")]
    defects = []
    ids: Counter[Any] = Counter()
    names: Counter[Any] = Counter()
    for place, category in enumerate(categories):
        number = category.get("id") if isinstance(category, dict) else None
        name = category.get("name") if isinstance(category, dict) else None
        if type(number) is not int or not isinstance(name, str) or not name:
            what = f"has no whole number as id or no name at place {place} of its categories"
            defects.append(Defect("error", file, "", what))
            continue
        ids[number] += 1
        names[name] += 1
        if ids[number] == 2:
            defects.append(Defect("error", file, f"category {number}", "is listed more than once"))
        if names[name] == 2:
            what = f"has the name {name!r} of another category"
            defects.append(Defect("error", file, f"category {number}", what))
    return defects


def check_json(
    content: dict[str, Any],
    file: str,
    with_masks: bool = True,
    classes: Collection[str] = (),
    may_lack_annotations: bool = False,
) -> list[Defect]:
    """All defects that the content of a JSON file shows.

    Args:
        content: of the file.
        file: its path.
        with_masks: whether the model learns masks, so that every annotation needs one.
        classes: names of those in use; empty for all. Of the annotations of others only what
            detectron2 cannot read is told.
        may_lack_annotations: whether the file may be that of a test set.
    """
    defects = check_categories(content, file)
    if defects:
        return defects
    image_defects = list(_image_defects(content, file))
    if not isinstance(content.get("images"), list):
        return image_defects
    annotations = content.get("annotations")
    if annotations is None and may_lack_annotations:
        return image_defects
    if not isinstance(annotations, list):
        return [*image_defects, Defect("error", file, "", "has no list of annotations")]
    defects = list(_annotation_defects(content, file, with_masks, classes))
    lost = sum(defect.what.endswith(LEFT_OUT) for defect in defects)
    if lost > len(annotations) / 2:
        what = (
            f"would lose {lost} of its {len(annotations)} annotations; see whether its boxes are "
            "x, y, width, height in pixels"
        )
        defects.insert(0, Defect("error", file, "", what))
    return [*image_defects, *defects, *_unused_classes(content, file, classes)]


def _image_defects(content: dict[str, Any], file: str) -> Iterator[Defect]:
    images = content.get("images")
    if not isinstance(images, list) or not images:
        yield Defect("error", file, "", "has no list of images")
        return
    ids: Counter[Any] = Counter()
    first: dict[str, Any] = {}
    for place, image in enumerate(images):
        number = image.get("id") if isinstance(image, dict) else None
        if not isinstance(number, int | str):
            what = f"has no number or name as id at place {place} of its images"
            yield Defect("error", file, "", what)
            continue
        where = f"image {number}"
        ids[number] += 1
        if ids[number] == 2:
            yield Defect("error", file, where, "is listed more than once")
        name = image.get("file_name")
        if not isinstance(name, str) or not name:
            yield Defect("error", file, where, "has no file_name")
        elif name in first:
            what = f"has the file_name {name} of image {first[name]}"
            yield Defect("warning", file, where, what)
        else:
            first[name] = number
        for key in ("width", "height"):
            if type(image.get(key)) is not int or image[key] < 1:
                what = f"has {image.get(key)!r} as {key}; it must be a whole number of pixels"
                yield Defect("error", file, where, what)
    if len({type(number) for number in ids}) > 1:
        yield Defect("error", file, "", "has numbers and names as ids of images; use one kind")


def _annotation_defects(
    content: dict[str, Any], file: str, with_masks: bool, classes: Collection[str]
) -> Iterator[Defect]:
    categories = category_names(content)
    used = {number for number, name in categories.items() if not classes or name in classes}
    sizes = {
        image["id"]: (image.get("height"), image.get("width"))
        for image in content["images"]
        if isinstance(image, dict) and isinstance(image.get("id"), int | str)
    }
    ids: Counter[Any] = Counter()
    for place, annotation in enumerate(content["annotations"]):
        number = annotation.get("id") if isinstance(annotation, dict) else None
        if not isinstance(number, int | str):
            what = f"has no number as id at place {place} of its annotations"
            yield Defect("error", file, "", what)
            continue
        where = f"annotation {number}"
        ids[number] += 1
        if ids[number] == 2:
            yield Defect("error", file, where, "is listed more than once")
        fault = _reference_fault(annotation, categories)
        if fault:
            yield Defect("error", file, where, fault)
            continue
        if annotation["image_id"] not in sizes:
            what = f"is of image {annotation['image_id']!r}, which is not listed; {LEFT_OUT}"
            yield Defect("warning", file, where, what)
            continue
        size = sizes[annotation["image_id"]]
        in_use = annotation["category_id"] in used
        for severity, what in annotation_findings(annotation, size, with_masks and in_use):
            if in_use or severity == "error":
                yield Defect(severity, file, where, what)


def _reference_fault(annotation: dict[str, Any], categories: Collection[int]) -> str:
    """What an annotation lacks to tell its image, its category and its box."""
    missing = [key for key in ("image_id", "category_id", "bbox") if key not in annotation]
    if missing:
        return f"has no key {' and no key '.join(missing)}"
    image, category = annotation["image_id"], annotation["category_id"]
    if not isinstance(image, int | str):
        return f"has {image!r} as image_id; it must be the id of an image"
    # What is no number may be a list, which cannot be looked up.
    if type(category) is not int or category not in categories:
        return f"has the category_id {category!r}, which is no category"
    return ""


def _unused_classes(
    content: dict[str, Any], file: str, classes: Collection[str]
) -> Iterator[Defect]:
    present = {
        annotation.get("category_id")
        for annotation in content["annotations"]
        if isinstance(annotation, dict) and isinstance(annotation.get("category_id"), int)
    }
    unused = [
        name
        for number, name in category_names(content).items()
        if number not in present and (not classes or name in classes)
    ]
    if unused:
        yield Defect("warning", file, "", f"has no annotation of {', '.join(unused)}")


def check_existence(content: dict[str, Any], image_root: Path) -> list[Defect]:
    """An error for every image that is not there.

    Args:
        content: of a JSON file.
        image_root: the folder that its file names begin in.
    """
    return [
        Defect("error", str(image_root / name), f"image {number}", "is missing")
        for number, name in named_images(content)
        if not (image_root / name).is_file()
    ]


def check_overlap_by_name(
    train: dict[str, Any], train_file: str, other: dict[str, Any], other_file: str
) -> list[Defect]:
    """A warning for every image of ``other`` whose file name ``train`` has too."""
    known = {name: number for number, name in named_images(train)}
    return [
        Defect(
            "warning",
            other_file,
            f"image {number}",
            f"has the file_name {name} of image {known[name]} of {train_file}",
        )
        for number, name in named_images(other)
        if name in known
    ]


def named_images(content: dict[str, Any]) -> Iterable[tuple[Any, str]]:
    """The id and the file name of each image that has both."""
    images = content.get("images")
    for image in images if isinstance(images, list) else ():
        if isinstance(image, dict) and isinstance(image.get("file_name"), str):
            yield image.get("id"), image["file_name"]
