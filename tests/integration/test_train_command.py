"""What the commands that train and evaluate print."""

import json
import subprocess
from pathlib import Path

from commands import PANET
from small_options import SMALL


def run(command: str, output_dir: Path, **overrides: object) -> subprocess.CompletedProcess[str]:
    options = {**SMALL, "OUTPUT_DIR": output_dir, "SOLVER.MAX_ITER": 3, **overrides}
    arguments = [
        *(*PANET, command, "--config-file", "quick/panet_R18_shapes.yaml"),
        *(str(item) for pair in options.items() for item in pair),
    ]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result


def test_a_screen_of_output_and_the_rest_in_the_log(tmp_path: Path) -> None:
    result = run("train", tmp_path)
    lines = (result.stderr + result.stdout).splitlines()
    assert len(lines) < 24, lines
    assert max(map(len, lines)) < 120
    named = {line.split()[0] for line in lines if line.strip()}
    assert {"model", "weights", "device", "train", "test", "schedule", "output"} < named
    progress = [line for line in lines if line.startswith("training")]
    assert progress[0].startswith("training   1/3, loss ")
    assert progress[-1].startswith("training   3/3, loss ")
    assert [line.split()[0] for line in lines[-2:]] == ["bbox", "segm"]
    assert f"saved      {tmp_path / 'model_final.pth'}" in lines
    log = (tmp_path / "log.txt").read_text()
    assert "Environment info" in log
    assert "Evaluation results for segm" in log

    weights = {"MODEL.WEIGHTS": tmp_path / "model_final.pth"}
    result = run("eval", tmp_path / "eval", **weights)
    assert result.stdout.splitlines() == (lines[-4:])
    metrics = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    assert metrics["iteration"] == 3
