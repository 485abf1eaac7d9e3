"""Tests of panet predict."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from commands import PANET, Run, run_command
from detectron2.config import CfgNode
from pycocotools import mask as rle
from small_models import SmallModel, write_model

from panet.data.shapes import draw_image


@pytest.fixture
def small(tiny_cfg: CfgNode, tmp_path: Path) -> SmallModel:
    return write_model(tiny_cfg, tmp_path / "model", ("disk", "square", "triangle", "star"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for index in range(12):
        file = root / f"{index % 2}" / f"{index // 2}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        size = (96, 96) if index % 3 else (120, 96)
        cv2.imwrite(str(file), cv2.resize(draw_image(9, index)[0], size))
    return root


Predict = Callable[..., Run]


def arguments_for(small: SmallModel, output: Path, *others: object) -> list[str]:
    files = ("--config-file", small.config_file, "--weights", small.weights, "--output", output)
    return [str(part) for part in (*files, "--score-threshold", 0.05, *others)]


@pytest.fixture
def predict(
    small: SmallModel,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Predict:
    """Run the program in this process, to avoid importing torch each time."""

    def run(output: Path, *others: object) -> Run:
        arguments = ("predict", *arguments_for(small, output, *others))
        return run_command(arguments, monkeypatch, capsys)

    return run


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[Any] | None" = None) -> None:
    """Wait for a condition, and fail if the process ends before or it takes two minutes."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None
        time.sleep(0.01)


def results(output: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((output / "results.json").read_text())
    return found


def assert_close(output: Path, expected: Path) -> None:
    names = [
        {path.relative_to(folder) for path in folder.rglob("*.json")}
        for folder in (output, expected)
    ]
    assert names[0] == names[1]
    ours, theirs = results(output), results(expected)
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs):
        for key in ("image_id", "file_name", "category_id", "category"):
            assert one[key] == other[key]
        assert one["bbox"] == pytest.approx(other["bbox"], abs=0.02)
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        masks = rle.decode([one["segmentation"], other["segmentation"]])
        assert np.mean(masks[..., 0] != masks[..., 1]) < 2e-3


def test_killed_in_the_middle_it_goes_on(
    predict: Predict, small: SmallModel, photos: Path, tmp_path: Path
) -> None:
    undisturbed = tmp_path / "undisturbed"
    run = predict(undisturbed, photos)
    assert run.status == 0, run.stderr
    assert "in 12 images" in run.stdout
    assert "12/12" in run.stderr

    output = tmp_path / "killed"
    records = output / "records"
    command = [*PANET, "predict", *arguments_for(small, output, photos)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: len(list(records.rglob("*.json"))) >= 3, process)
        process.send_signal(signal.SIGKILL)
    written = {path: path.stat().st_mtime_ns for path in records.rglob("*.json")}
    assert 3 <= len(written) < 12
    assert not (output / "results.json").exists()
    assert all(json.loads(path.read_text())["detections"] for path in written)

    run = predict(output, photos)
    assert run.status == 0, run.stderr
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert_close(output, undisturbed)
    assert {path.name for path in (output / "pictures" / "1").iterdir()} == {
        f"{index}.png.jpg" for index in range(6)
    }


def test_two_processes_write_what_one_writes(
    predict: Predict, photos: Path, tmp_path: Path
) -> None:
    (photos / "bad.jpg").touch()
    (photos / "0" / "bad.jpg").write_text("no image")
    outputs = {number: tmp_path / f"{number}" for number in (1, 2)}
    for number, output in outputs.items():
        run = predict(output, photos, "--no-pictures", "--batch-size", 2, "--num-gpus", number)
        assert run.status == 1, run.stderr
        summary = run.stderr.splitlines()[-1]
        assert summary == f"2 of 14 images could not be read, see {output / 'unreadable.txt'}"
        assert not (output / "pictures").exists()
    assert_close(outputs[2], outputs[1])
    lists = [(output / "unreadable.txt").read_text() for output in outputs.values()]
    assert lists[0] == lists[1]
    assert lists[0].splitlines()[0].startswith(str(photos / "0" / "bad.jpg"))


def test_another_threshold_or_model_does_not_mix(
    predict: Predict, small: SmallModel, photos: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    one = (photos / "0" / "0.png", "--csv", "--masks")
    assert predict(output, *one).status == 0
    before = results(output)
    for changes, message in (
        (("--score-threshold", 0.3), "MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.05, not 0.3"),
        (("--opts", "INPUT.MIN_SIZE_TEST", 64), "INPUT.MIN_SIZE_TEST 96, not 64"),
    ):
        run = predict(output, *one, *changes)
        assert run.status == 2
        last = run.stderr.splitlines()[-1]
        assert message in last
        assert "--start-over" in last
        assert results(output) == before
    content = torch.load(small.weights)
    content["model"]["roi_heads.box_predictor.cls_score.bias"] += 0.1
    torch.save(content, small.weights)
    run = predict(output, *one)
    assert run.status == 2
    assert "holds results of other weights" in run.stderr.splitlines()[-1]
    run = predict(output, photos / "1" / "1.png", "--start-over", "--no-pictures")
    assert run.status == 0, run.stderr
    assert {found["file_name"] for found in results(output)} == {"1.png"}
    assert sorted(path.name for path in output.iterdir() if path.name != ".lock") == [
        *("categories.json", "images.json", "records", "results.json", "run.json")
    ]


def test_wrong_arguments_end_in_one_line(predict: Predict, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    other = tmp_path / "other"
    other.mkdir()
    (other / "results.json").write_text("{}")
    for arguments, message in (
        ((tmp_path / "nowhere",), "There is no file or folder"),
        ((photos, "--batch-size", 0), "--batch-size: '0' is not"),
        ((photos, "--score-threshold", 2), "it must be from 0 to 1"),
        ((photos, "--weights", "gone.pth"), "no checkpoint gone.pth"),
        ((photos, "--config-file", "gone.yaml"), "no configuration file gone.yaml"),
        ((photos, "--opts", "MODEL.GONE", 1), "MODEL.GONE"),
        ((photos, "--output", other), "files that are not results"),
    ):
        run = predict(output, *arguments)
        assert run.status == 2
        assert message in run.stderr.splitlines()[-1]
    assert (other / "results.json").read_text() == "{}"
    assert not (output / "results.json").exists()


def test_interrupted_it_says_how_to_go_on(small: SmallModel, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = [*PANET, "predict", *arguments_for(small, output, photos)]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        # Background jobs of a shell ignore SIGINT.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as process:
        wait_for((output / "records").exists, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "Run the same command to resume."
    assert "Traceback" not in err


def test_its_processes_end_with_it(small: SmallModel, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = arguments_for(small, output, photos, "--num-gpus", 2)
    with subprocess.Popen(
        [*PANET, "predict", *arguments],
        stderr=subprocess.DEVNULL,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_IGN),
    ) as process:
        wait_for((output / "records").exists, process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
    assert len(children) >= 2
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    assert len(list((output / "records").rglob("*.json"))) < 12
