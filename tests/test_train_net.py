"""The command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = {
    "MODEL.WEIGHTS": "",
    "MODEL.DEVICE": "cuda",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 20,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": 64,
    "SOLVER.IMS_PER_BATCH": 2,
    "TEST.DETECTIONS_PER_IMAGE": 5,
}


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
