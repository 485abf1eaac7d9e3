"""Mapillary Vistas, read from small copies of it."""

import json
import shutil
from pathlib import Path

import cv2
import pytest
from detectron2.data import MetadataCatalog
from small_datasets import VISTAS_CLASSES, VISTAS_LABELS, write_vistas

from panet.data import mapillary
from panet.utils.errors import UserError

TRAIN = "mapillary_vistas_train"


@pytest.mark.parametrize("version", ["1.2", "2.0"])
def test_records_and_classes(tmp_path: Path, version: str) -> None:
    write_vistas(tmp_path, images=3, version=version)
    records = mapillary.load_vistas(TRAIN, tmp_path)
    assert len(records) == 3
    for number, record in enumerate(records):
        image = cv2.imread(record["file_name"])
        assert (record["height"], record["width"]) == image.shape[:2]
        assert Path(record["file_name"]).stem == f"vistas_training_{number}"
        assert Path(record["instance_file_name"]).name == f"vistas_training_{number}.png"
        assert Path(record["instance_file_name"]).is_file()
        assert record["label_classes"] == (0, -1, 1, -1, 2, -1)
    assert len({record["image_id"] for record in records}) == 3
    metadata = MetadataCatalog.get(TRAIN)
    assert metadata.thing_classes == VISTAS_CLASSES
    assert metadata.thing_colors == [color for *_, things, color in VISTAS_LABELS if things]


def test_reading_the_records_decodes_nothing(tmp_path: Path) -> None:
    write_vistas(tmp_path)
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"")
    for path in tmp_path.rglob("*.jpg"):
        path.write_bytes(path.read_bytes()[:-500])
    assert len(mapillary.load_vistas(TRAIN, tmp_path)) == 4


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "has neither config.json .version 1. nor config_v1.2.json"),
        ("training/images", "there is no folder .*training/images"),
        ("training/instances", "there is no folder .*training/instances"),
        ("training/instances/vistas_training_2.png", "has no instance map .*training_2.png"),
        ("training/images/*.jpg", r"images has no \*.jpg"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, missing: str, message: str) -> None:
    write_vistas(tmp_path)
    for path in tmp_path.glob(missing):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=message) as error:
        mapillary.load_vistas(TRAIN, tmp_path)
    assert "\n" not in str(error.value)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    write_vistas(tmp_path)
    image = tmp_path / "training" / "images" / "vistas_training_1.jpg"
    image.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"vistas_training_1.jpg is not an image"):
        mapillary.load_vistas(TRAIN, tmp_path)
    for content in ("{", "[]", json.dumps({"labels": [{"name": "animal--bird"}]})):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError, match=r"config.json is not a config file of Mapillary"):
            mapillary.load_vistas(TRAIN, tmp_path)
