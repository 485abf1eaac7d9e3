"""Tests that a training killed several times gives the same model as an uninterrupted one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from paths import CONFIGS, ROOT

DEADLINE = 600
"""Seconds that a step may take on the slowest machine."""
KILLS = int(os.environ.get("PANET_TEST_KILLS", "2"))
OPTIONS = {
    "MODEL.WEIGHTS": "",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 20,
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 20 + 10 * KILLS,
    "SOLVER.CHECKPOINT_PERIOD": 3,
    "DATALOADER.NUM_WORKERS": 1,
    "DATASETS.TEST": "()",
}


def start(output_dir: Path) -> subprocess.Popen[bytes]:
    options = {**OPTIONS, "OUTPUT_DIR": output_dir}
    config_file = CONFIGS / "quick" / "panet_R18_shapes.yaml"
    command = [sys.executable, ROOT / "train_net.py", "--resume", "--config-file", config_file]
    command += [str(item) for pair in options.items() for item in pair]
    with (output_dir.parent / "output.txt").open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)


def last_checkpoint(output_dir: Path) -> str:
    file = output_dir / "last_checkpoint"
    return file.read_text() if file.exists() else ""


def output_of(output_dir: Path) -> str:
    return (output_dir.parent / "output.txt").read_text()[-3000:]


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its children, unless it has ended."""
    if process.poll() is None:  # not reaped, so that its group still exists
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def finish(output_dir: Path) -> dict[str, torch.Tensor]:
    process = start(output_dir)
    try:
        status = process.wait(DEADLINE)
    except subprocess.TimeoutExpired:
        kill(process)
        raise
    assert status == 0, output_of(output_dir)
    return torch.load(output_dir / "model_final.pth", weights_only=True)["model"]


def test_killed_at_random_moments(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "a" / "run", tmp_path / "b" / "run"
    for folder in (undisturbed, killed):
        folder.mkdir(parents=True)
    expected = finish(undisturbed)
    rng = random.Random(0)
    for _ in range(KILLS):
        before = last_checkpoint(killed)
        process = start(killed)
        deadline = time.monotonic() + DEADLINE
        try:
            # Wait for progress; otherwise the loop might never end.
            while last_checkpoint(killed) == before and process.poll() is None:
                assert time.monotonic() < deadline, output_of(killed)
                time.sleep(0.02)
            assert not process.poll(), output_of(killed)  # running, or ended without an error
            time.sleep(rng.uniform(0, 0.6))
        finally:
            kill(process)
    found = finish(killed)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    text = (killed.parent / "output.txt").read_text()
    assert text.count("Starting training from iteration") >= 2
    iterations = [
        json.loads(line)["iteration"] for line in (killed / "metrics.json").read_text().splitlines()
    ]
    assert max(iterations) == OPTIONS["SOLVER.MAX_ITER"] - 1
