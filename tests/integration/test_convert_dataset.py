"""Tests of panet convert-data."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import Run, run_command

pytest.importorskip("supervision")

Convert = Callable[..., Run]


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Convert:
    return lambda *arguments: run_command(("convert-data", *arguments), monkeypatch, capsys)


def write_yolo(root: Path) -> None:
    for folder in ("images/train", "labels/train"):
        (root / folder).mkdir(parents=True)
    cv2.imwrite(str(root / "images/train/one.png"), np.zeros((40, 80, 3), np.uint8))
    (root / "labels/train/one.txt").write_text("1 0.25 0.25 0.75 0.25 0.75 0.75\n")
    (root / "data.yaml").write_text("names: [cat, dog]\n")


def test_yolo_in_its_usual_folders(tmp_path: Path, convert: Convert) -> None:
    write_yolo(tmp_path)
    output = tmp_path / "out" / "train.json"
    run = convert("--from", "yolo", tmp_path / "labels", output)
    assert run.status == 0, run.stderr
    assert "1 images, 1 objects of 2 classes, 1 with masks" in run.stdout
    assert f"DATASETS.OWN.TRAIN.IMAGES {tmp_path / 'images'}" in run.stdout
    content = json.loads(output.read_text())
    assert content["images"][0]["file_name"] == "train/one.png"
    assert content["annotations"][0]["category_id"] == 2
    assert content["annotations"][0]["bbox"] == [20, 10, 41, 21]
    assert list(output.parent.iterdir()) == [output]


def test_voc_finds_its_images_beside(tmp_path: Path, convert: Convert) -> None:
    for folder in ("Annotations", "JPEGImages"):
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / "JPEGImages" / "one.jpg"), np.zeros((40, 80, 3), np.uint8))
    box = "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>5</xmax><ymax>6</ymax></bndbox>"
    xml = f"<annotation><object><name>cat</name>{box}</object></annotation>"
    (tmp_path / "Annotations" / "one.xml").write_text(xml)
    output = tmp_path / "train.json"
    run = convert("--from", "voc", tmp_path / "Annotations", output)
    assert run.status == 0, run.stderr
    assert json.loads(output.read_text())["annotations"][0]["bbox"] == [2, 3, 3, 3]


def test_wrong_arguments_end_in_one_line(tmp_path: Path, convert: Convert) -> None:
    write_yolo(tmp_path)
    labels, output = tmp_path / "labels", tmp_path / "train.json"
    for arguments, message in (
        (("--from", "voc", tmp_path / "gone", output), "there is no folder"),
        (("--from", "voc", labels, output), "JPEGImages; give the images with --images"),
        (("--from", "voc", labels, output, "--images", tmp_path), "There are no voc annotations"),
        (("--from", "labelme", labels, output), "There are no labelme annotations"),
        (("--from", "yolo", tmp_path / "images", output), "not in a folder named labels"),
    ):
        run = convert(*arguments)
        assert run.status == 2
        assert message in run.stderr.splitlines()[-1]
    assert not output.exists()
