"""Tests of the command that converts the downloaded nuclei dataset."""

import hashlib
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import Run
from paths import NUCLEI
from PIL import Image
from pycocotools import mask as rle
from small_nuclei import HEIGHT, IDS, WIDTH, image_path, masks_of, write_nuclei

sys.path.append(str(NUCLEI))

import prepare_nuclei
from stage1 import choose_split, listed_split, read_splits

Prepare = Callable[..., Run]


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Prepare:
    def run(*arguments: object) -> Run:
        monkeypatch.setattr(sys, "argv", ["prepare_nuclei.py", *map(str, arguments)])
        status = 0
        try:
            prepare_nuclei.main()
        except SystemExit as end:
            status = int(end.code or 0)
        return Run(status, *capsys.readouterr())

    return run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "stage1_train"
    write_nuclei(folder)
    return folder


def test_images_and_masks_are_those_of_the_source(
    source: Path, tmp_path: Path, prepare: Prepare
) -> None:
    empty = np.zeros((HEIGHT, WIDTH), np.uint8)
    Image.fromarray(empty).save(source / IDS[3] / "masks" / "empty.png")
    run = prepare(source, tmp_path / "nuclei", "--val-share", "0.4")
    assert run.status == 0, run.stderr
    found = {}
    for split in ("train", "val"):
        content = json.loads((tmp_path / "nuclei" / f"{split}.json").read_text())
        assert content["categories"] == [{"id": 1, "name": "nucleus"}]
        annotations = content["annotations"]
        assert [a["id"] for a in annotations] == list(range(1, len(annotations) + 1))
        assert f"{split}: {len(content['images'])} images, {len(annotations)} nuclei" in run.stdout
        for image in content["images"]:
            assert (image["height"], image["width"]) == (HEIGHT, WIDTH)
            path = tmp_path / "nuclei" / split / image["file_name"]
            own = [a for a in annotations if a["image_id"] == image["id"]]
            found[path.stem] = (path, own)
    assert sorted(found) == sorted(IDS)
    assert run.stdout.count("1 empty masks are left out") == 1
    for number, image_id in enumerate(IDS):
        path, annotations = found[image_id]
        with Image.open(path) as image:
            assert image.mode == "RGB"
            expected = np.asarray(Image.open(image_path(source, image_id)))[:, :, :3]
            assert np.array_equal(image, expected)
        for annotation, mask in zip(annotations, masks_of(number), strict=True):
            assert np.array_equal(rle.decode(annotation["segmentation"]), mask)
            y, x = np.nonzero(mask)
            box = [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
            assert annotation["bbox"] == box
            assert annotation["area"] == mask.sum()


def test_the_split_depends_on_the_id_alone(source: Path, tmp_path: Path, prepare: Prepare) -> None:
    assert prepare(source, tmp_path / "all", "--val-share", "0.4").status == 0
    names = {s: {p.stem for p in (tmp_path / "all" / s).iterdir()} for s in ("train", "val")}
    for image_id in IDS:
        fraction = int(hashlib.sha256(image_id.encode()).hexdigest(), 16) / 2**256
        assert (image_id in names["val"]) == (fraction < 0.4)
    shutil.rmtree(source / sorted(names["train"])[0])
    assert prepare(source, tmp_path / "fewer", "--val-share", "0.4").status == 0
    assert {p.stem for p in (tmp_path / "fewer" / "val").iterdir()} == names["val"]
    many = [choose_split(str(number), 0.2) for number in range(5000)]
    assert many.count("val") == pytest.approx(1000, abs=100)


def test_a_file_may_tell_the_split(source: Path, tmp_path: Path, prepare: Prepare) -> None:
    (tmp_path / "split.csv").write_text(
        f"image,split\n{IDS[2][:16]},val\n{IDS[5][:16]},train\n{IDS[0]},train\nffff,val\n"
    )
    run = prepare(source, tmp_path / "nuclei", "--split", tmp_path / "split.csv")
    assert run.status == 0, run.stderr
    assert "lists 4 images; 3 are there" in run.stdout
    for split, ids in {"train": sorted([IDS[0], IDS[5]]), "val": [IDS[2]]}.items():
        images = json.loads((tmp_path / "nuclei" / f"{split}.json").read_text())["images"]
        assert [image["file_name"] for image in images] == [f"{i}.png" for i in ids]
        assert len(list((tmp_path / "nuclei" / split).iterdir())) == len(ids)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "image,split\n00,train\n11,test\n",
            "Line 3 of .* does not have an image in a column 'image'",
        ),
        ("id,split\n00,train\n", "Line 2 of .* in a column 'split'"),
        ("image,split\n,train\n", "Line 2 of "),
        ("image,split\n", "none of the 8 images is in the split train; give a file"),
        ("\0\xff", "split.csv cannot be read: "),
        (None, "split.csv cannot be read: .*No such file"),
    ],
)
def test_files_of_splits_that_are_none(
    source: Path, tmp_path: Path, prepare: Prepare, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "split.csv").write_bytes(content.encode("latin-1"))
    run = prepare(source, tmp_path / "nuclei", "--split", tmp_path / "split.csv")
    assert run.status == 2
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert re.search(message, line)


def test_the_published_split_has_all_its_images_once() -> None:
    splits = read_splits(NUCLEI / "split.csv")
    assert Counter(splits.values()) == {"train": 393, "val": 129}
    assert all(len(start) == 16 for start in splits)
    assert listed_split("00071198d059ba7f" + 48 * "0", splits) == "train"
    assert listed_split(64 * "0", splits) is None


def test_the_same_source_gives_the_same_files(
    source: Path, tmp_path: Path, prepare: Prepare
) -> None:
    outputs = [tmp_path / "first", tmp_path / "second"]
    contents = []
    for output in outputs:
        assert prepare(source, output, "--val-share", "0.4").status == 0
        files = sorted(path for path in output.rglob("*") if path.is_file())
        contents.append({path.relative_to(output): path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert prepare(source, outputs[0], "--val-share", "0.4").status == 0  # again
    assert (outputs[0] / "val.json").read_bytes() == contents[1][Path("val.json")]


def remove_masks(source: Path) -> None:
    shutil.rmtree(source / IDS[2] / "masks")


def write_text_as_mask(source: Path) -> None:
    (source / IDS[2] / "masks" / "01.png").write_text("not an image")


def write_large_mask(source: Path) -> None:
    Image.fromarray(np.ones((80, 90), np.uint8)).save(source / IDS[2] / "masks" / "01.png")


def cut_image(source: Path) -> None:
    path = image_path(source, IDS[2])
    path.write_bytes(path.read_bytes()[:2000])


def remove_image(source: Path) -> None:
    image_path(source, IDS[2]).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "There is no folder .*stage1_train"),
        (remove_masks, f"{IDS[2]}/masks has no masks"),
        (write_text_as_mask, f"{IDS[2]}/masks/01.png cannot be read"),
        (write_large_mask, f"{IDS[2]}/masks/01.png is 90 x 80 pixels, but its image is 90 x 70"),
        (cut_image, f"{IDS[2]}.png cannot be read"),
        (remove_image, f"There is no image .*{IDS[2]}.png"),
    ],
)
def test_damage_ends_in_one_line(
    source: Path,
    tmp_path: Path,
    prepare: Prepare,
    damage: Callable[[Path], None],
    message: str,
) -> None:
    output = tmp_path / "nuclei"
    assert prepare(source, output, "--val-share", "0.4").status == 0
    damage(source)
    run = prepare(source, output, "--val-share", "0.4")
    assert run.status == 2
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert re.search(message, line)
    assert list(output.rglob("*.unfinished")) == []
    if damage in (write_text_as_mask, write_large_mask, cut_image):
        # The files of the first run no longer match the images.
        assert not list(output.glob("*.json"))


@pytest.mark.parametrize(("share", "split"), [("0", "val"), ("1", "train"), ("nan", "val")])
def test_no_split_may_be_empty(
    source: Path, tmp_path: Path, prepare: Prepare, share: str, split: str
) -> None:
    run = prepare(source, tmp_path / "nuclei", "--val-share", share)
    assert run.status == 2
    assert f"none of the 8 images is in the split {split}" in run.stderr
