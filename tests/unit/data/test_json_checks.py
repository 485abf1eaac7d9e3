"""Defects that a JSON file shows: each one is put into a sound file, and found alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_coco
from pycocotools import mask as rle

from panet.data.annotation_checks import decode_counts
from panet.data.json_checks import (
    DatasetError,
    Defect,
    check_existence,
    check_json,
    check_shared_images,
    refuse_errors,
)

KINDS = ("polygons", "compressed", "uncompressed")
Content = dict[str, Any]


def setter(part: str, place: int, **values: Any) -> Callable[[Content], None]:
    return lambda content: content[part][place].update(values)


def remover(part: str, place: int, key: str) -> Callable[[Content], None]:
    return lambda content: content[part][place].pop(key)


def duplicate(part: str, place: int) -> Callable[[Content], None]:
    return lambda content: content[part].append({**content[part][place], "file_name": "new.png"})


def shift_mask(content: Content) -> None:
    """Move the mask of annotation 0 by 5 of its 12 pixels, so that the IoU is 7 / 17."""
    content["annotations"][0]["segmentation"] = small_coco.segmentation("polygons", 8, 5, 12)


def stretch_box(content: Content) -> None:
    """Widen the box of annotation 0 from 12 to 15 pixels: an IoU of 0.8."""
    content["annotations"][0]["bbox"][2] = 15


WRONG: list[tuple[Callable[[Content], Any], str, str, str]] = [
    (lambda c: c.pop("images"), "error", "", "no 'images', which must be a non-empty list"),
    (lambda c: c.pop("annotations"), "error", "", "no 'annotations', which must be a list"),
    (lambda c: c.pop("categories"), "error", "", "no 'categories', which must be a non-empty list"),
    (setter("categories", 0, id="1"), "error", "", "no integer 'id' or no 'name' in categories[0]"),
    (
        remover("categories", 0, "name"),
        "error",
        "",
        "no integer 'id' or no 'name' in categories[0]",
    ),
    (setter("categories", 0, id=0), "error", "category 0", "listed more than once"),
    (setter("categories", 0, name="cat"), "error", "category 0", "the same name 'cat' as another"),
    (duplicate("images", 1), "error", "image 1", "listed more than once"),
    (lambda c: c["images"].append({}), "error", "", "no integer or string 'id' in images[4]"),
    (remover("images", 1, "file_name"), "error", "image 1", "has no file_name"),
    (setter("images", 1, width="64"), "error", "image 1", "has width '64'"),
    (remover("images", 1, "height"), "error", "image 1", "has height None"),
    (
        setter("images", 3, file_name="day/1.png"),
        "warning",
        "image 3",
        "same file_name day/1.png as image 1",
    ),
    (duplicate("annotations", 4), "error", "annotation 4", "listed more than once"),
    (remover("annotations", 4, "id"), "error", "", "no integer or string 'id' in annotations[4]"),
    (remover("annotations", 4, "bbox"), "error", "annotation 4", "has no bbox"),
    (remover("annotations", 4, "image_id"), "error", "annotation 4", "has no image_id"),
    (setter("annotations", 4, category_id=1), "error", "annotation 4", "category_id 1, which is"),
    (setter("annotations", 4, category_id=[0]), "error", "annotation 4", "category_id [0], which"),
    (setter("annotations", 4, image_id=99), "warning", "annotation 4", "image 99, which is not"),
    (setter("annotations", 4, image_id=[1]), "error", "annotation 4", "has image_id [1]"),
    (setter("annotations", 4, ignore=1), "error", "annotation 4", "has the key 'ignore'"),
    (setter("annotations", 4, iscrowd="no"), "error", "annotation 4", "has iscrowd 'no'"),
    (setter("annotations", 4, bbox=[1, 2, 3]), "error", "annotation 4", "has bbox [1, 2, 3]"),
    (setter("annotations", 4, bbox=[1, 2, float("nan"), 3]), "error", "annotation 4", "nan"),
    (setter("annotations", 4, bbox=[23, 6, 0, 13]), "warning", "annotation 4", "has the empty box"),
    (shift_mask, "error", "annotation 0", "does not match its mask, which is at 8, 5, 12, 12"),
    (stretch_box, "warning", "annotation 0", "(IoU 0.80)"),
    (remover("annotations", 4, "segmentation"), "error", "annotation 4", "has no segmentation"),
    (setter("annotations", 4, segmentation=[]), "error", "annotation 4", "has no segmentation"),
    (setter("annotations", 4, segmentation=[1.0] * 8), "error", "annotation 4", "list of polygons"),
    (
        setter("annotations", 4, segmentation=[[1, 2, 3, 4]]),
        *("warning", "annotation 4", "with fewer than three points"),
    ),
    (
        setter("annotations", 4, segmentation={"size": [64, 48], "counts": [64 * 48]}),
        *("error", "annotation 4", "RLE of size [64, 48] for an image of height 48 and width 64"),
    ),
    (
        setter("annotations", 4, segmentation={"size": [48, 64], "counts": [100, 20]}),
        *("error", "annotation 4", "counts do not match the size of its image"),
    ),
    (
        setter("annotations", 4, segmentation={"size": [48, 64], "counts": "01:0"}),
        *("error", "annotation 4", "counts do not match the size of its image"),
    ),
    (
        setter("annotations", 4, segmentation={"size": [48, 64], "counts": None}),
        *("error", "annotation 4", "neither a list of integers nor a string"),
    ),
    (
        setter("annotations", 4, segmentation={"size": [48, 64], "counts": [48 * 64]}),
        *("warning", "annotation 4", "has an empty mask"),
    ),
]


def outside(x: float, y: float, width: float, height: float) -> Callable[[Content], None]:
    """Give annotation 4 a box with its mask, which may be outside of the image."""
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    box = [x, y, width, height]
    return setter("annotations", 4, bbox=box, segmentation=[corners])


WRONG += [
    (outside(60, 40, 20, 6), "warning", "annotation 4", "extends beyond its image of 64 x 48"),
    (outside(70, 10, 20, 10), "warning", "annotation 4", "outside its image of 64 x 48"),
    (outside(-30, 10, 20, 10), "warning", "annotation 4", "outside its image of 64 x 48"),
]


@pytest.mark.parametrize(("spoil", "severity", "id", "what"), WRONG)
def test_a_defect_is_found_alone(
    spoil: Callable[[Content], Any], severity: str, id: str, what: str
) -> None:
    content = small_coco.content(kinds=KINDS)
    assert check_json(content, "own.json") == []
    spoil(content)
    (defect,) = check_json(content, "own.json")
    assert defect[:3] == (severity, "own.json", id)
    assert what in defect.what


def test_what_other_programs_write_is_sound() -> None:
    content = small_coco.content(kinds=KINDS)
    content["annotations"][0]["bbox"] = [3.4, 4.6, 12.0, 11.2]
    content["annotations"][4] |= {"iscrowd": 1, "area": 12.5, "attributes": {}}
    for image in content["images"]:
        image["id"] = f"image-{image['id']}"
    for annotation in content["annotations"]:
        annotation["image_id"] = f"image-{annotation['image_id']}"
    assert check_json(content, "own.json") == []


def test_classes_not_in_use_need_no_masks() -> None:
    content = small_coco.content(kinds=("none", "polygons", "polygons"))
    assert len(check_json(content, "own.json")) == 4
    assert check_json(content, "own.json", with_masks=False) == []
    assert check_json(content, "own.json", classes=("dog", "owl")) == []


def test_a_class_without_annotations_is_told() -> None:
    content = small_coco.content()
    content["categories"] += [{"id": 3, "name": "emu"}, {"id": 4, "name": "fox"}]
    assert check_json(content, "f") == [
        Defect("warning", "f", "", "has no annotations of emu, fox")
    ]
    (defect,) = check_json(content, "f", classes=("dog", "fox"))
    assert defect.what == "has no annotations of fox"


def test_a_file_that_would_lose_most_annotations_is_wrong() -> None:
    content = small_coco.content(kinds=("none",))
    for annotation in content["annotations"][:7]:
        annotation["bbox"] = [700, 500, 20, 20]
    first, *others = check_json(content, "f", with_masks=False)
    assert first.severity == "error"
    assert "would lose 7 of its 12 annotations" in first.what
    assert {defect.severity for defect in others} == {"warning"}
    content["annotations"][0]["bbox"] = [0, 0, 9, 9]
    assert len(check_json(content, "f", with_masks=False)) == 6


def test_compressed_counts_are_those_of_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.98):
        mask = np.asfortranarray(rng.random((300, 400)) < share, dtype=np.uint8)
        flat = mask.flatten(order="F")
        runs = np.diff([0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]).tolist()
        runs = [0, *runs] if flat[0] else runs
        assert decode_counts(rle.encode(mask)["counts"].decode()) == runs
    assert decode_counts("P") is None
    assert decode_counts("!") is None


def test_missing_images(tmp_path: Path) -> None:
    content = small_coco.content()
    small_coco.write(tmp_path, content)
    assert check_existence(content, tmp_path / "train") == []
    path = tmp_path / "train" / "day" / "1.png"
    path.unlink()
    defect = Defect("error", str(path), "image 1", "is missing")
    assert check_existence(content, tmp_path / "train") == [defect]


def test_images_shared_with_another_dataset(tmp_path: Path) -> None:
    train, val = small_coco.content(), small_coco.content(images=2)
    val["images"][0]["file_name"] = "night/other.png"
    roots = tmp_path / "one", tmp_path / "two"
    for root in roots:
        (root / "day").mkdir(parents=True)
        (root / "day" / "1.png").write_text("the same")

    def shared(other_root: Path) -> list[Defect]:
        return check_shared_images(train, roots[0], "train.json", val, other_root, "val.json")

    for root in roots:
        (defect,) = shared(root)
        assert defect[:3] == ("warning", "val.json", "image 1")
        assert defect.what == "day/1.png is also image 1 of train.json"
    (roots[1] / "day" / "1.png").write_text("another")
    assert shared(roots[1]) == []
    assert shared(tmp_path / "nowhere") == []


def test_only_errors_are_refused() -> None:
    warning = Defect("warning", "own.json", "image 1", "is odd")
    refuse_errors([warning])
    with pytest.raises(DatasetError) as raised:
        refuse_errors([warning, warning._replace(severity="error", what="is wrong")])
    assert str(raised.value).endswith("panet check: own.json: image 1 is wrong.")


def test_nothing_that_json_can_hold_breaks_the_check() -> None:
    for content in small_coco.damaged(small_coco.content(images=1, kinds=KINDS)):
        check_json(content, "own.json")
