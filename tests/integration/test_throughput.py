"""Tests of the throughput benchmark, on small images."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from paths import BENCHMARKS

sys.path.append(str(BENCHMARKS))

import throughput

IMAGES = 3


@pytest.fixture
def config_file(tiny_cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(throughput, "IMAGE_SIZE", (72, 96))
    monkeypatch.setattr(throughput, "NUM_DETECTIONS", {"predict": 4, "evaluate": 6})
    monkeypatch.setattr(throughput, "keep_freed_memory", lambda: None)  # would affect other tests
    file = tmp_path / "config.yaml"
    file.write_text(tiny_cfg.dump())
    return file


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["throughput.py", *map(str, arguments)])
    throughput.main()


def test_report(
    config_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report_file = tmp_path / "report.json"
    options = ["--config-file", config_file, "--images", IMAGES, "--rounds", 2]
    written: dict[tuple[str, str], Any] = {}

    def measure_here(task: str, by: str, folder: Path) -> list[float]:
        capsys.readouterr()
        run(monkeypatch, "--only", task, by, folder, *options)
        seconds, cpu_seconds = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert min(seconds, cpu_seconds) > 0
        files = [*folder.rglob("results.json"), *folder.rglob("coco_instances_results.json")]
        results = [json.loads(file.read_text()) for file in files]
        for file in files:
            file.unlink()
        number = throughput.NUM_DETECTIONS[task]
        assert sorted(map(len, results)) == [number, IMAGES * number]  # of warm-up and measurement
        written[task, by] = max(results, key=len)
        return [seconds, cpu_seconds]

    monkeypatch.setattr(throughput, "measure_in_new_process", measure_here)
    run(monkeypatch, *options, "--json", report_file)
    report = json.loads(report_file.read_text())
    rows = report["rows"]
    assert [(row["task"], row["by"]) for row in rows] == [
        *(("predict", "detectron2"), ("predict", "panet")),
        *(("evaluate", "detectron2"), ("evaluate", "panet")),
    ]
    for stock, ours in (rows[:2], rows[2:]):
        assert stock["ratio_to_stock"] == 1
        ratio = ours["images_per_second"] / stock["images_per_second"]
        assert ours["ratio_to_stock"] == pytest.approx(ratio)
    assert "CPU seconds per image" in capsys.readouterr().out
    for task in throughput.TASKS:  # both give the same results
        stock, ours = written[task, "detectron2"], written[task, "panet"]
        for one, other in zip(stock, ours, strict=True):
            assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-3)
            assert one["score"] == pytest.approx(other["score"], abs=1e-6)
            assert one["segmentation"] == other["segmentation"]


def test_each_is_measured_in_its_own_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program.py"
    program.write_text("import json, sys\nprint('...')\nprint(json.dumps(sys.argv[1:]))\n")
    monkeypatch.setattr(sys, "argv", [str(program), "--images", "3", "--opts", "SEED", "4"])
    arguments: Any = throughput.measure_in_new_process("predict", "panet", tmp_path)
    assert arguments[:4] == ["--only", "predict", "panet", str(tmp_path)]
    assert arguments[4:] == ["--images", "3", "--opts", "SEED", "4"]


def test_detections_of_trained_weights_are_not_replaced(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "model.pth"
    cfg = throughput.load_config(str(config_file))
    torch.save({"model": throughput.build_model(cfg).state_dict()}, weights)
    throughput.write_dataset(tmp_path / "images", IMAGES, 4)
    throughput.write_dataset(tmp_path / "warm_up", 1, 4)
    monkeypatch.setattr(throughput, "forced", None)
    run(
        monkeypatch,
        *("--only", "predict", "panet", tmp_path),
        *("--config-file", config_file, "--weights", weights),
    )
    assert len(list(tmp_path.rglob("records/*.json"))) == IMAGES + 1
