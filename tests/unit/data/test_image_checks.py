"""Defects of image files."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_coco
from detectron2.data.detection_utils import read_image
from PIL import Image

from panet.data.image_checks import CheckedImage, check_image, check_images, duplicated_content

ENTRY: dict[str, Any] = {"id": 3, "file_name": "a/b.jpg", "width": 40, "height": 30}


def save(root: Path, width: int = 40, height: int = 30, **options: Any) -> Path:
    path = root / ENTRY["file_name"]
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[274] = orientation
    return data


def faults(root: Path, **changes: Any) -> str:
    image = check_image({**ENTRY, **changes}, root)
    assert all(defect[:3] == ("error", image.path, "image 3") for defect in image.defects)
    return "; ".join(defect.what for defect in image.defects)


def test_a_sound_image(tmp_path: Path) -> None:
    path = save(tmp_path)
    image = check_image(ENTRY, tmp_path)
    assert image.defects == []
    assert (image.id, image.path) == (3, str(path))
    assert len(image.digest) == 64


def test_missing_truncated_and_other_files(tmp_path: Path) -> None:
    assert faults(tmp_path) == "is missing"
    path = save(tmp_path)
    path.write_bytes(path.read_bytes()[:-300])
    assert "cannot be read: image file is truncated" in faults(tmp_path)
    path.write_text("no image")
    assert "cannot be read: cannot identify image file" in faults(tmp_path)
    path.write_bytes(b"")
    assert "cannot be read" in faults(tmp_path)


def test_sizes_are_those_that_detectron2_reads(tmp_path: Path) -> None:
    save(tmp_path, 41)
    assert faults(tmp_path) == "is 41 x 30 pixels, but 40 x 30 in the JSON file"
    path = save(tmp_path, exif=exif(6))
    assert read_image(str(path)).shape[:2] == (40, 30)
    assert "30 x 40 pixels after its EXIF orientation is applied, but 40 x 30" in faults(tmp_path)
    assert faults(tmp_path, width=30, height=40) == ""
    save(tmp_path, exif=exif(3))
    assert faults(tmp_path) == ""


@pytest.mark.parametrize("highest", [255, 256])
def test_deep_pixels_that_would_be_read_as_white(tmp_path: Path, highest: int) -> None:
    pixels = np.full((30, 40), highest, np.uint16)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    found = faults(tmp_path, file_name="deep.png")
    assert ("more than 8 bits per channel (mode I;16)" in found) == (highest > 255)


def test_processes_find_the_same(tmp_path: Path) -> None:
    content = small_coco.content(images=20)
    small_coco.write(tmp_path, content)
    (tmp_path / "train" / "day" / "7.png").write_text("")
    alone = list(check_images(content, tmp_path / "train"))
    assert [bool(image.defects) for image in alone] == [number == 7 for number in range(20)]
    assert list(check_images(content, tmp_path / "train", processes=2)) == alone


def test_the_same_content_under_another_name(tmp_path: Path) -> None:
    content = small_coco.content()
    root = small_coco.write(tmp_path, content)[1]
    other = small_coco.write(tmp_path, content, "other")[1]
    shutil.copy(root / "day" / "1.png", other / "night" / "2.png")
    images, others = list(check_images(content, root)), list(check_images(content, other))
    assert duplicated_content(images, images, "a.json", "a.json") == []
    (defect,) = duplicated_content(images, others, "a.json", "b.json")
    assert defect[:3] == ("warning", "b.json", "image 2")
    assert defect.what == f"has the same content as image 1 of a.json, {root / 'day' / '1.png'}"
    shutil.copy(root / "day" / "1.png", root / "night" / "2.png")
    images = list(check_images(content, root))
    (defect,) = duplicated_content(images, images, "a.json", "a.json")
    assert defect.id == "image 2"


def test_missing_files_have_no_content_in_common() -> None:
    images = [CheckedImage(number, "gone.png", "", []) for number in range(2)]
    assert duplicated_content(images, images, "a.json", "a.json") == []
