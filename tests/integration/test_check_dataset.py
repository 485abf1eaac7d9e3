"""Tests of panet check."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import small_coco
from commands import Run, run_command
from detectron2.data import DatasetCatalog, MetadataCatalog

Check = Callable[..., Run]


@pytest.fixture
def check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Check]:
    def run(*arguments: object) -> Run:
        always = ("--output-dir", tmp_path / "out", "--processes", "1")
        return run_command(("check", *always, *arguments), monkeypatch, capsys)

    before = set(DatasetCatalog.list())
    yield run
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


def options(split: str, json_file: Path, images: Path) -> list[object]:
    key = f"DATASETS.OWN.{split}"
    return [f"{key}.JSON", json_file, f"{key}.IMAGES", images]


def test_a_sound_dataset(tmp_path: Path, check: Check) -> None:
    files = small_coco.write(tmp_path, small_coco.content(kinds=("polygons", "compressed")))
    run = check("--json", files[0], "--images", files[1], "--samples", "2")
    assert run.status == 0, run.stderr
    assert "4 images, 0 of them without objects; 12 annotations of 3 classes" in run.stdout
    assert "0 errors, 0 warnings" in run.stdout
    assert (tmp_path / "out" / "classes_data.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "out" / "samples" / "data").glob("*.jpg"))) == 2
    assert (tmp_path / "out" / "defects.csv").read_text().split() == ["severity,file,id,what"]


def test_wrong_arguments_create_nothing(tmp_path: Path, check: Check) -> None:
    for arguments, message in (
        ((), "Give --json and --images, or --config-file."),
        (("--config-file", "gone.yaml"), "There is no configuration file gone.yaml"),
        (("--config-file", "panet_R50_2x.yaml", "DATASETS.TRAIN", "()"), "has no file"),
    ):
        run = check(*arguments)
        assert run.status == 2
        assert message in run.stderr.splitlines()[-1]
        assert not (tmp_path / "out").exists()


def test_every_defect_is_in_the_table(tmp_path: Path, check: Check) -> None:
    content = small_coco.content()
    content["annotations"][5]["category_id"] = 1
    train = small_coco.write(tmp_path, content)
    val = small_coco.write(tmp_path, small_coco.content(images=1), "val")
    picture = train[1] / "day" / "3.png"
    picture.write_bytes(picture.read_bytes()[:500])
    (train[1] / "night" / "0.png").replace(val[1] / "night" / "0.png")
    (train[1] / "night" / "2.png").write_bytes((val[1] / "night" / "0.png").read_bytes())
    arguments = ("--json", train[0], "--images", train[1], "--against", *val)
    run = check(*arguments)
    assert run.status == 1, run.stderr
    assert "3 errors, 1 warning\n" in run.stdout
    rows = list(csv.DictReader((tmp_path / "out" / "defects.csv").open()))
    assert [(row["severity"], row["id"]) for row in rows] == [
        ("error", "annotation 5"),
        ("error", "image 0"),
        ("error", "image 3"),
        ("warning", "image 0"),
    ]
    assert rows[1]["what"] == "is missing"
    assert "truncated" in rows[2]["what"]
    assert "has the same content as image 2" in rows[3]["what"]


def test_the_datasets_of_a_configuration(tmp_path: Path, check: Check) -> None:
    train = small_coco.write(tmp_path, small_coco.content(kinds=("none", "polygons", "polygons")))
    val = small_coco.write(tmp_path, small_coco.content(), "val")
    data = [*options("TRAIN", *train), *options("VAL", *val), "MODEL.MASK_ON", "True"]
    # Only the first class, which is not selected, has objects without masks.
    subset = ["DATASETS.OWN.CLASSES", "['dog','owl']"]
    name = "quick/panet_R18_shapes.yaml"
    run = check("--samples", "0", "--config-file", name, *data, *subset)
    assert run.status == 0, run.stdout + run.stderr
    assert "own_train: " in run.stdout
    assert "0 errors, 0 warnings" in run.stdout  # other images, though of the same names
    run = check("--config-file", name, *data)
    assert run.status == 2
    assert "4 annotations without a segmentation" in run.stderr.splitlines()[-1]
    val[0].write_text(json.dumps({"images": []}))
    run = check("--config-file", name, *data, *subset)
    assert run.status == 1
    assert f"error    {val[0]}: has no 'categories'" in run.stdout


def test_broken_json_is_a_defect_and_wrong_arguments_are_not(tmp_path: Path, check: Check) -> None:
    json_file, images = small_coco.write(tmp_path, small_coco.content())
    json_file.write_text("{")
    run = check("--json", json_file, "--images", images)
    assert run.status == 1
    assert "is not valid JSON" in run.stdout
    for arguments, message in (
        ((), "Give --json and --images"),
        (("--json", tmp_path / "gone.json", "--images", images), "there is no file"),
        (("--json", json_file, "--images", tmp_path / "gone"), "there is no folder"),
        (("--json", json_file, "--config-file", "panet_R50_1x.yaml"), "not both"),
        (("--processes", "0"), "argument --processes: '0'"),
    ):
        run = check(*arguments)
        assert run.status == 2
        assert message in run.stderr.splitlines()[-1]
