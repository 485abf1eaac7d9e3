"""Other programs' annotations, in the formats that they write."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import small_coco
from pycocotools import mask as rle

from panet.data.annotation_formats import (
    convert_item,
    find_by_stem,
    find_class_file,
    find_labelme,
    to_coco,
    yolo_classes,
)
from panet.data.json_checks import check_json
from panet.utils.errors import UserError

pytest.importorskip("supervision")

WIDTH, HEIGHT = 80, 60
# Of pixels, x and y in turn, at their centres.
TRIANGLE = [[10.0, 5.0], [50.0, 5.0], [10.0, 45.0]]
SQUARE = [[60.0, 20.0], [70.0, 20.0], [70.0, 30.0], [60.0, 30.0]]
SHAPES = (("owl", TRIANGLE), ("cat", SQUARE))


def write_image(path: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((height, width, 3), np.uint8))


def write_labelme(path: Path, image: str, shapes: list[dict[str, Any]] | None = None) -> None:
    """As Labelme 5 writes it."""
    if shapes is None:
        shapes = [{"label": name, "points": p, "shape_type": "polygon"} for name, p in SHAPES]
    common = {"group_id": None, "description": "", "flags": {}, "mask": None}
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": [common | shape for shape in shapes],
        "imagePath": image,
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2))


def write_voc(path: Path, image: str, with_polygons: bool = True) -> None:
    """As exported with polygons; pixels are counted from 1."""
    objects = []
    for name, points in SHAPES:
        xs, ys = [int(x) + 1 for x, _ in points], [int(y) + 1 for _, y in points]
        corners = "".join(
            f"<x{i}>{x}</x{i}><y{i}>{y}</y{i}>" for i, (x, y) in enumerate(zip(xs, ys), 1)
        )
        objects.append(
            f"<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>0</difficult><bndbox><xmin>{min(xs)}</xmin><ymin>{min(ys)}</ymin>"
            f"<xmax>{max(xs)}</xmax><ymax>{max(ys)}</ymax></bndbox>"
            f"{f'<polygon>{corners}</polygon>' if with_polygons else ''}</object>"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation><folder>VOC</folder><filename>{image}</filename>"
        f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        f"<segmented>1</segmented>{''.join(objects)}</annotation>"
    )


def write_yolo(folder: Path, stem: str) -> None:
    """Class number and corners as shares of the width and height."""
    numbers = {"cat": 0, "dog": 1, "owl": 2}
    lines = []
    for name, points in SHAPES:
        corners = " ".join(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in points)
        lines.append(f"{numbers[name]} {corners}\n")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.txt").write_text("".join(lines))


def expected_mask(points: list[list[float]]) -> np.ndarray:
    """The pixels whose centres are within a polygon or on its border, one by one."""
    corners = np.array(points, np.float32)
    inside = [
        [cv2.pointPolygonTest(corners, (x, y), False) >= 0 for x in range(WIDTH)]
        for y in range(HEIGHT)
    ]
    return np.array(inside)


def assert_shapes(content: dict[str, Any], image_id: int) -> None:
    """An image has the masks of :data:`SHAPES`, in the same places, and the boxes around them."""
    names = {category["id"]: category["name"] for category in content["categories"]}
    found = [a for a in content["annotations"] if a["image_id"] == image_id]
    assert [names[annotation["category_id"]] for annotation in found] == ["owl", "cat"]
    for annotation, (_, points) in zip(found, SHAPES):
        mask = expected_mask(points)
        assert np.array_equal(rle.decode(annotation["segmentation"]).astype(bool), mask)
        y, x = np.nonzero(mask)
        box = [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
        assert annotation["bbox"] == box
        assert annotation["area"] == mask.sum()
    assert check_json(content, "converted") in ([], [unused_dog()])


def unused_dog() -> tuple[str, ...]:
    return ("warning", "converted", "", "has no annotations of dog")


def test_labelme(tmp_path: Path) -> None:
    write_labelme(tmp_path / "a" / "one.json", "..\\pictures\\one.png")
    write_image(tmp_path / "pictures" / "one.png")
    write_labelme(tmp_path / "two.json", "two.jpg")
    write_image(tmp_path / "two.jpg")
    items = find_labelme(tmp_path)
    content = to_coco(convert_item("labelme", item) for item in items)
    assert [c["name"] for c in content["categories"]] == ["cat", "owl"]
    assert [i["file_name"] for i in content["images"]] == ["a/../pictures/one.png", "two.jpg"]
    for image in content["images"]:
        assert (image["width"], image["height"]) == (WIDTH, HEIGHT)
        assert (tmp_path / image["file_name"]).is_file()
        assert_shapes(content, image["id"])
    write_image(tmp_path / "elsewhere" / "a" / "one.png")
    first = find_labelme(tmp_path, tmp_path / "elsewhere")[0]
    assert first.image == tmp_path / "elsewhere" / "a" / "one.png"
    assert first.file_name == "a/one.png"


def test_labelme_says_what_it_leaves_out(tmp_path: Path) -> None:
    shapes = [
        {"label": "owl", "points": TRIANGLE, "shape_type": "polygon"},
        {"label": "owl", "points": [[5, 5], [9, 9]], "shape_type": "circle"},
    ]
    write_labelme(tmp_path / "one.json", "one.png", shapes)
    write_image(tmp_path / "one.png")
    converted = convert_item("labelme", find_labelme(tmp_path)[0])
    assert converted.classes == ["owl"]
    assert "circle" in converted.remarks[0]


def test_voc(tmp_path: Path) -> None:
    write_voc(tmp_path / "Annotations" / "x" / "one.xml", "one.jpg")
    write_voc(tmp_path / "Annotations" / "boxes.xml", "boxes.png", with_polygons=False)
    for name in ("boxes.png", "empty.png", "x/one.jpg"):
        write_image(tmp_path / "JPEGImages" / name)
    items = find_by_stem(tmp_path / "Annotations", tmp_path / "JPEGImages", ".xml")
    content = to_coco(convert_item("voc", item) for item in items)
    names = [image["file_name"] for image in content["images"]]
    assert names == ["boxes.png", "empty.png", "x/one.jpg"]
    boxes = [a for a in content["annotations"] if a["image_id"] == 1]
    # From the first pixel to the end of the last one.
    assert [a["bbox"] for a in boxes] == [[10, 5, 41, 41], [60, 20, 11, 11]]
    assert not any("segmentation" in a for a in boxes)
    content["annotations"] = content["annotations"][2:]
    assert_shapes(content, 3)


def test_yolo(tmp_path: Path) -> None:
    write_yolo(tmp_path / "labels" / "train", "one")
    write_image(tmp_path / "images" / "train" / "one.png")
    write_image(tmp_path / "images" / "train" / "background.jpg")
    (tmp_path / "data.yaml").write_text("path: .\nnames:\n  0: cat\n  1: dog\n  2: owl\n")
    class_file = find_class_file(tmp_path / "labels" / "train")
    classes = yolo_classes(class_file)
    items = find_by_stem(tmp_path / "labels", tmp_path / "images", ".txt")
    converted = [convert_item("yolo", item, class_file=class_file) for item in items]
    content = to_coco(converted, classes)
    assert [c["name"] for c in content["categories"]] == ["cat", "dog", "owl"]
    assert [i["file_name"] for i in content["images"]] == ["train/background.jpg", "train/one.png"]
    assert_shapes(content, 2)


def test_yolo_boxes_have_masks_only_if_asked(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text(f"0 {15 / WIDTH} {20 / HEIGHT} {10 / WIDTH} {20 / HEIGHT}\n")
    write_image(tmp_path / "one.png")
    class_file = tmp_path / "data.yaml"
    class_file.write_text("names: [cat]\n")
    (item,) = find_by_stem(tmp_path, tmp_path, ".txt")
    content = to_coco([convert_item("yolo", item, class_file=class_file)])
    assert content["annotations"][0]["bbox"] == pytest.approx([10, 10, 10, 20], abs=1e-4)
    assert "segmentation" not in content["annotations"][0]
    content = to_coco([convert_item("yolo", item, box_masks=True, class_file=class_file)])
    mask = rle.decode(content["annotations"][0]["segmentation"])
    assert np.array_equal(
        mask.astype(bool), expected_mask([[10, 10], [20, 10], [20, 30], [10, 30]])
    )


def test_broken_files_are_named(tmp_path: Path) -> None:
    write_image(tmp_path / "one.png")
    (tmp_path / "one.xml").write_text("<annotation><object>")
    (tmp_path / "one.txt").write_text("0 0.5 0.5\n")
    (tmp_path / "one.json").write_text("{}")
    class_file = tmp_path / "data.yaml"
    with pytest.raises(UserError, match=r"There is no data.yaml with"):
        find_class_file(tmp_path / "a" / "b" / "c" / "d")
    class_file.write_text("names: [cat]\n")
    for source, extension in (("voc", ".xml"), ("yolo", ".txt")):
        (item,) = find_by_stem(tmp_path, tmp_path, extension)
        with pytest.raises(UserError, match=rf"one\{extension} cannot be converted"):
            convert_item(source, item, class_file=class_file)
    with pytest.raises(UserError, match=r"one.json cannot be converted: it has no 'imagePath'"):
        find_labelme(tmp_path)
    write_labelme(tmp_path / "one.json", "gone.png")
    with pytest.raises(UserError, match="gone.png cannot be converted"):
        convert_item("labelme", find_labelme(tmp_path)[0])
    write_labelme(tmp_path / "one.json", "one.png")
    write_image(tmp_path / "one.png", small_coco.WIDTH, small_coco.HEIGHT)
    with pytest.raises(UserError, match="it is for an image of 80 x 60, but .* has 64 x 48"):
        convert_item("labelme", find_labelme(tmp_path)[0])
