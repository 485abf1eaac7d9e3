"""Tests of panet analyze-levels, which draws Figure 3 of the paper."""

import csv
import os
import subprocess
from pathlib import Path

import pytest
from commands import PANET

SMALL = {
    "MODEL.WEIGHTS": "",
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "INPUT.MIN_SIZE_TEST": 64,
}


def analyze(output_dir: Path, *flags: str, **overrides: object) -> subprocess.CompletedProcess[str]:
    options = {**SMALL, **overrides}
    command = [
        *(*PANET, "analyze-levels", "--config-file", "quick/panet_R18_shapes.yaml"),
        *("--output-dir", output_dir, *flags),
        *(str(item) for pair in options.items() for item in pair),
    ]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "80"}
    )


def test_the_same_command_twice_gives_the_same_table(tmp_path: Path) -> None:
    tables = []
    for attempt in ("first", "second"):
        run = analyze(tmp_path / attempt, "--max-images", "2")
        assert run.returncode == 0, run.stderr
        assert "The box head on 2 images" in run.stdout
        tables.append((tmp_path / attempt / "levels.csv").read_text())
        assert (tmp_path / attempt / "levels.png").read_bytes().startswith(b"\x89PNG")
    assert tables[0] == tables[1]
    rows = list(csv.DictReader(tables[0].splitlines()))
    assert [row["source_level"] for row in rows[:4]] == ["p2", "p3", "p4", "p5"]
    # Each share is rounded to six decimal places.
    assert sum(float(row["share"]) for row in rows[:4]) == pytest.approx(1, abs=1e-5)
    assert sum(int(row["boxes"]) for row in rows[::4]) == 40


def test_tta_options_are_used(tmp_path: Path) -> None:
    windows = {
        "TEST.AUG.ENABLED": True,
        "TEST.AUG.WINDOW": 128,
        "TEST.AUG.SCALES": "(0.5,)",
        "TEST.AUG.FLIP": False,
    }
    run = analyze(tmp_path, "--max-images", "2", **windows)
    assert run.returncode == 0, run.stderr
    assert "The box head on 2 images" in run.stdout
    rows = list(csv.DictReader((tmp_path / "levels.csv").read_text().splitlines()))
    # The images are 256 x 256 pixels, so each has four tiles.
    assert sum(int(row["boxes"]) for row in rows[::4]) == 2 * 4 * 20


def test_wrong_arguments_end_in_one_line(tmp_path: Path) -> None:
    for flags, message in (
        (("--max-images", "0"), "--max-images: '0' is not"),
        (("--dataset", "shapes_vla"), "'shapes_vla' is not registered"),
        (("MODEL.ADAPTIVE_POOLING.FUSION", "sum"), "FUSION is 'sum'"),
        (("DATASETS.TEST", "()"), "DATASETS.TEST is empty"),
    ):
        run = analyze(tmp_path, *flags)
        assert run.returncode == 2
        assert message in run.stderr.splitlines()[-1]
    run = analyze(tmp_path, **{"MODEL.WEIGHTS": "gone.pth"})
    assert run.returncode == 2
    assert "gone.pth" in run.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())
