"""Tests of benchmarks/gpu.py on the CPU."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import BENCHMARKS

sys.path.append(str(BENCHMARKS))

import boxes
import gpu
import inference
import training
from gpu_steps import PARTS, Extent

MACHINE = {"device": "a GPU"}


@pytest.fixture(autouse=True)
def _restore_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the sizes that a dry run changes for the whole process."""
    monkeypatch.setattr(boxes, "IMAGE_SIZE", boxes.IMAGE_SIZE)
    for module in (inference, training):
        monkeypatch.setattr(module, "NUM_PROPOSALS", module.NUM_PROPOSALS)
    monkeypatch.setattr(inference, "NUM_DETECTIONS", inference.NUM_DETECTIONS)


def figures(seconds: float, peak_mb: float = 100.0) -> dict[str, object]:
    return {"seconds": seconds, "peak_mb": peak_mb, "stages": {"backbone": seconds / 2}}


def dry_run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCHMARKS / "gpu.py", "--dry-run", "--output", folder, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_dry_run_runs_all_steps_and_a_second_one_only_missing_ones(tmp_path: Path) -> None:
    run = dry_run(tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    file = tmp_path / "dry_run.json"
    content = json.loads(file.read_text())
    done = {part: set(steps) for part, steps in content["parts"].items()}
    for part, steps in PARTS.items():
        assert done[part] == {step for step, _ in steps(Extent(dry=True))}
    assert content["parts"]["tests"]["marked gpu"]["failed"] == []
    assert content["parts"]["learning"]["cpu"]["mask AP"] >= 0
    latency = content["parts"]["speed"]["latency panet-2fc-fp32"]
    assert latency["seconds"] > 0
    assert set(latency["stages"]) >= {"backbone", "pooling", "mask head"}
    del content["parts"]["compiled"]["latency stock-fp32, torch.compile"]
    file.write_text(json.dumps(content))
    printed = dry_run(tmp_path, "--parts", "speed", "compiled").stdout
    assert "compiled: latency stock-fp32, torch.compile" in printed
    assert printed.count(" s\n") == 1
    content["machine"]["device"] = "another GPU"
    file.write_text(json.dumps(content))
    other = dry_run(tmp_path, "--parts", "compiled")
    assert other.returncode == 2
    assert "dry_run.json is from another machine" in other.stderr


def test_failed_steps_are_recorded_and_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = iter([RuntimeError("out of memory"), figures(1.0)])

    def measure() -> dict[str, object]:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    steps = [("a", measure), ("b", lambda: figures(2.0))]
    monkeypatch.setitem(PARTS, "speed", lambda extent: iter(steps))
    file = tmp_path / "new" / "gpu.json"
    gpu.run_part("speed", Extent(dry=True), gpu.Results(file, MACHINE))
    content = json.loads(file.read_text())
    assert content["parts"]["speed"]["a"] == {"error": "RuntimeError: out of memory"}
    assert content["parts"]["speed"]["b"] == figures(2.0)
    gpu.run_part("speed", Extent(dry=True), gpu.Results(file, MACHINE))
    assert json.loads(file.read_text())["parts"]["speed"]["a"] == figures(1.0)


def test_ratios_are_to_the_stock_model_in_the_same_precision() -> None:
    speed = {
        "latency stock-fp32": figures(4.0),
        "latency stock-bf16": figures(2.0),
        "latency panet-2fc-bf16": figures(3.0, peak_mb=110.0),
    }
    compiled = {"latency panet-2fc-bf16, CUDA graph": figures(1.0)}
    lines = gpu.report(
        {"machine": MACHINE, "parts": {"speed": speed, "compiled": compiled}}
    ).splitlines()
    cells = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in lines
        if line.startswith("|")
    }
    assert cells["panet-2fc-bf16"] == ["3000.0", "1.50", "1.00", "110", "1.10", "1.15", "1500.0"]
    assert cells["panet-2fc-bf16, CUDA graph"][1] == "0.50"


def test_without_a_gpu_an_error_is_raised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "There is no GPU" in capsys.readouterr().err


def test_a_part_and_its_child_processes_end_at_the_deadline(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    command = ["sh", "-c", f"sleep 60 & echo $! > {file}; wait"]
    with pytest.raises(subprocess.TimeoutExpired):
        gpu.run_until(time.monotonic() + 1, command)
    process = Path("/proc", file.read_text().strip(), "status")
    while process.exists() and "zombie" not in process.read_text():
        time.sleep(0.01)  # until the signal takes effect
    assert gpu.run_until(time.monotonic() + 10, ["sh", "-c", "exit 3"]) == 3
