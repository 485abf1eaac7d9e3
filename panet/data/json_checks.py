"""Defects of datasets in COCO's format that the JSON file and the file names show.

Errors would stop training, or silently corrupt training or evaluation. All others are warnings.
"""

import filecmp
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from panet.utils.errors import UserError

from .annotation_checks import LEFT_OUT, Severity, annotation_findings
from .coco_file import category_names, entries, named_images

_Finding = tuple[Severity, str, str]
"""A defect without the path of the JSON file."""


class Defect(NamedTuple):
    """A defect of a dataset.

    Attributes:
        severity: "error" if training must not start with it.
        file: path of the JSON file or of the image.
        id: "image 3", "annotation 7", "category 1", or "" for the whole file.
        what: what is wrong, e.g. "has no bbox", with ``id`` as its subject.
    """

    severity: Severity
    file: str
    id: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {f'{self.id} ' if self.id else ''}{self.what}"


class DatasetError(UserError):
    """A dataset has errors, so training must not start.

    Attributes:
        defects: all defects, including warnings.
    """

    def __init__(self, defects: Sequence[Defect]) -> None:
        self.defects = list(defects)
        errors = [str(defect) for defect in defects if defect.severity == "error"]
        more = f"; and {len(errors) - 10} more" if len(errors) > 10 else ""
        super().__init__(
            f"The dataset has {len(errors)} error{'s' if len(errors) > 1 else ''}; fix them, or "
            f"list all with panet check: {'; '.join(errors[:10])}{more}."
        )


def refuse_errors(defects: Sequence[Defect]) -> None:
    """Raise an error if any of the defects is one.

    Raises:
        DatasetError: naming the first ten errors.
    """
    if any(defect.severity == "error" for defect in defects):
        raise DatasetError(defects)


def check_categories(content: dict[str, Any], file: str) -> list[Defect]:
    """Check the list of categories. The other checks require it to have no defects.

    Args:
        content: of a JSON file.
        file: its path.
    """
    return [Defect(severity, file, *rest) for severity, *rest in _category_findings(content)]


def _category_findings(content: dict[str, Any]) -> Iterator[_Finding]:
    categories = content.get("categories")
    if not isinstance(categories, list) or not categories:
        yield "error", "", "has no 'categories', which must be a non-empty list"
        return
    ids: Counter[int] = Counter()
    names: Counter[str] = Counter()
    for index, category in enumerate(categories):
        number = category.get("id") if isinstance(category, dict) else None
        name = category.get("name") if isinstance(category, dict) else None
        if type(number) is not int or not isinstance(name, str) or not name:
            yield "error", "", f"has no integer 'id' or no 'name' in categories[{index}]"
            continue
        ids[number] += 1
        names[name] += 1
        if ids[number] == 2:
            yield "error", f"category {number}", "is listed more than once"
        if names[name] == 2:
            yield "error", f"category {number}", f"has the same name {name!r} as another category"


def check_json(
    content: dict[str, Any],
    file: str,
    with_masks: bool = True,
    classes: Collection[str] = (),
    may_lack_annotations: bool = False,
) -> list[Defect]:
    """Find all defects that the content of a JSON file shows.

    Args:
        content: of the file.
        file: its path.
        with_masks: whether the model learns masks, so that every annotation needs one.
        classes: names of the classes in use; empty for all. Annotations of other classes are only
            checked for what detectron2 cannot read.
        may_lack_annotations: whether "annotations" may be missing, as in a test set.
    """
    findings = list(_category_findings(content))
    if not findings:
        findings += _image_findings(content)
        is_test_set = may_lack_annotations and content.get("annotations") is None
        if isinstance(content.get("images"), list) and not is_test_set:
            findings += _all_annotation_findings(content, with_masks, classes)
    return [Defect(severity, file, where, what) for severity, where, what in findings]


def _image_findings(content: dict[str, Any]) -> Iterator[_Finding]:
    if not isinstance(content.get("images"), list) or not content["images"]:
        yield "error", "", "has no 'images', which must be a non-empty list"
        return
    yield from _id_findings(content, "images")
    images = entries(content, "images", id=int | str)
    first: dict[str, Any] = {}
    for image in images:
        where = f"image {image['id']}"
        name = image.get("file_name")
        if not isinstance(name, str) or not name:
            yield "error", where, "has no file_name"
        elif name in first:
            yield "warning", where, f"has the same file_name {name} as image {first[name]}"
        else:
            first[name] = image["id"]
        for key in ("width", "height"):
            if type(image.get(key)) is not int or image[key] < 1:
                yield "error", where, f"has {key} {image.get(key)!r}; it must be a positive integer"
    if len({type(number) for number in {image["id"] for image in images}}) > 1:
        yield "error", "", "has both integers and strings as image ids; use one type"


def _id_findings(content: dict[str, Any], key: str) -> Iterator[_Finding]:
    """Find missing and duplicate ids in a list of images or annotations."""
    counts: Counter[Any] = Counter()
    for index, entry in enumerate(content[key]):
        number = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(number, int | str):
            yield "error", "", f"has no integer or string 'id' in {key}[{index}]"
            continue
        counts[number] += 1
        if counts[number] == 2:
            yield "error", f"{key.removesuffix('s')} {number}", "is listed more than once"


def _all_annotation_findings(
    content: dict[str, Any], with_masks: bool, classes: Collection[str]
) -> Iterator[_Finding]:
    if not isinstance(content.get("annotations"), list):
        yield "error", "", "has no 'annotations', which must be a list"
        return
    categories = category_names(content)
    used = {n: name for n, name in categories.items() if not classes or name in classes}
    findings = list(_annotation_findings(content, with_masks, categories, used))
    total, lost = len(content["annotations"]), sum(f[2].endswith(LEFT_OUT) for f in findings)
    if lost > total / 2:
        yield (
            "error",
            "",
            f"would lose {lost} of its {total} annotations; check that its boxes are x, y, width, "
            "height in pixels",
        )
    yield from _id_findings(content, "annotations")
    yield from findings
    present = {a["category_id"] for a in entries(content, "annotations", category_id=int)}
    unused = [name for number, name in used.items() if number not in present]
    if unused:
        yield "warning", "", f"has no annotations of {', '.join(unused)}"


def _annotation_findings(
    content: dict[str, Any], with_masks: bool, categories: Collection[int], used: Collection[int]
) -> Iterator[_Finding]:
    sizes = {
        image["id"]: (image.get("height"), image.get("width"))
        for image in entries(content, "images", id=int | str)
    }
    for annotation in entries(content, "annotations", id=int | str):
        where = f"annotation {annotation['id']}"
        fault = _reference_fault(annotation, categories)
        if fault:
            yield "error", where, fault
            continue
        image = annotation["image_id"]
        if image not in sizes:
            yield "warning", where, f"belongs to image {image!r}, which is not listed; {LEFT_OUT}"
            continue
        in_use = annotation["category_id"] in used
        for severity, what in annotation_findings(annotation, sizes[image], with_masks and in_use):
            if in_use or severity == "error":
                yield severity, where, what


def _reference_fault(annotation: dict[str, Any], categories: Collection[int]) -> str:
    """What is missing or wrong in the keys that every annotation needs; "" if nothing."""
    missing = [key for key in ("image_id", "category_id", "bbox") if key not in annotation]
    if missing:
        return f"has no {', '.join(missing)}"
    image, category = annotation["image_id"], annotation["category_id"]
    if not isinstance(image, int | str):
        return f"has image_id {image!r}; it must be the id of an image"
    # The type is checked first, because lists and dicts cannot be looked up.
    if type(category) is not int or category not in categories:
        return f"has category_id {category!r}, which is not the id of a category"
    return ""


def check_existence(content: dict[str, Any], image_root: Path) -> list[Defect]:
    """Report an error for each image file that does not exist.

    Args:
        content: of a JSON file.
        image_root: folder that its file names are relative to.
    """
    return [
        Defect("error", str(image_root / name), f"image {number}", "is missing")
        for number, name in named_images(content)
        if not (image_root / name).is_file()
    ]


def check_shared_images(
    train: dict[str, Any],
    train_root: Path,
    train_file: str,
    other: dict[str, Any],
    other_root: Path,
    other_file: str,
) -> list[Defect]:
    """Report a warning for each image of ``other`` that is also in ``train``, under its file name.

    Images of the same name in two folders are shared only if the files are identical.
    """
    known = {name: number for number, name in named_images(train)}
    return [
        Defect(
            "warning",
            other_file,
            f"image {number}",
            f"{name} is also image {known[name]} of {train_file}",
        )
        for number, name in named_images(other)
        if name in known and _is_same_file(train_root / name, other_root / name)
    ]


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other) or filecmp.cmp(one, other, shallow=False)
    except OSError:  # reported as missing
        return False
