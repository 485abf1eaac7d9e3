"""Tests of train_net.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT
from small_options import SMALL


def train_net(output_dir: Path, *flags: str, **overrides: object) -> str:
    """Run train_net.py on a small version of the quick configuration and return what it prints."""
    options = {**SMALL, "OUTPUT_DIR": output_dir, **overrides}
    command = [
        *(sys.executable, ROOT / "train_net.py"),
        *("--config-file", ROOT / "configs" / "quick" / "panet_R18_shapes.yaml"),
        *flags,
        *(str(item) for pair in options.items() for item in pair),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("CUDA is not available: MODEL.DEVICE cuda becomes cpu") == 1
    return run.stdout


def last_iteration(output_dir: Path) -> int:
    lines = map(json.loads, (output_dir / "metrics.json").read_text().splitlines())
    return max(line["iteration"] for line in lines if "total_loss" in line)


@pytest.mark.parametrize("processes", [1, 2])
def test_train_resume_and_evaluate(tmp_path: Path, processes: int) -> None:
    number = ("--num-gpus", str(processes), "--dist-url", "auto")
    train_net(tmp_path, *number, **{"SOLVER.MAX_ITER": 2})
    assert last_iteration(tmp_path) == 1
    out = train_net(tmp_path, "--resume", *number, **{"SOLVER.MAX_ITER": 4})
    assert "Starting training from iteration 2" in out
    assert last_iteration(tmp_path) == 3
    weights = {"MODEL.WEIGHTS": tmp_path / "model_final.pth"}
    out = train_net(tmp_path, "--eval-only", *number, **weights)
    assert "copypaste: Task: segm" in out


SMALL_LAZY = {
    "train.device": "cuda",
    "model.proposal_generator.post_nms_topk": "[20,20]",
    "model.roi_heads.box_predictor.test_topk_per_image": 5,
    "dataloader.train.mapper.augmentations.0.short_edge_length": 64,
    "dataloader.test.mapper.augmentations.0.short_edge_length": 64,
    "dataloader.train.total_batch_size": 2,
}


def train_net_lazy(
    output_dir: Path, *flags: str, **overrides: object
) -> subprocess.CompletedProcess[str]:
    """Run train_net.py on a small version of the quick Python configuration."""
    options = {**SMALL_LAZY, "train.output_dir": output_dir, **overrides}
    command = [
        *(sys.executable, ROOT / "train_net.py"),
        *("--config-file", "lazy/quick/panet_R18_shapes.py"),
        *flags,
        *(f"{key}={value}" for key, value in options.items()),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_python_configurations_in_two_processes(tmp_path: Path) -> None:
    number = ("--num-gpus", "2", "--dist-url", "auto")
    training = {"dataloader.evaluator": "null"}
    for flags, iterations in (((), 2), (("--resume",), 4)):
        run = train_net_lazy(
            tmp_path, *flags, *number, **training, **{"train.max_iter": iterations}
        )
        assert run.returncode == 0, run.stderr
        assert run.stderr.count("CUDA is not available: train.device cuda becomes cpu") == 1
        assert last_iteration(tmp_path) == iterations - 1
    assert "Starting training from iteration 2" in run.stdout
    weights = {"train.init_checkpoint": tmp_path / "model_final.pth"}
    run = train_net_lazy(tmp_path, "--eval-only", *number, **weights)
    assert run.returncode == 0, run.stderr
    assert "copypaste: Task: segm" in run.stdout


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.max_itr": 2}, "error: There is no configuration key train.max_itr; the closest"),
        ({"train.max_iter": "many"}, "error: train.max_iter is many, of type str"),
        (
            {"train.init_checkpoint": "gone.pth"},
            "error: There is no checkpoint gone.pth; set train",
        ),
    ],
)
def test_errors_of_python_configurations_take_one_line(
    tmp_path: Path, overrides: dict[str, object], message: str
) -> None:
    run = train_net_lazy(tmp_path, **overrides)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith(message)
    assert "Traceback" not in run.stderr
