"""Tests of panet demo with a very short training."""

import json
import subprocess
from pathlib import Path

from commands import PANET
from small_options import SMALL


def run_demo(output_dir: Path, iterations: int, early_pictures_after: float = 600.0) -> str:
    options = {**SMALL, "SOLVER.MAX_ITER": iterations}
    command = [
        *(*PANET, "demo", "--output-dir", output_dir),
        *("--setup-seconds", "1.5", "--early-pictures-after", str(early_pictures_after)),
        *(str(item) for pair in options.items() for item in pair),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_leaves_figures_and_pictures_and_trains_only_once(tmp_path: Path) -> None:
    out = run_demo(tmp_path, iterations=2, early_pictures_after=0.0)
    assert "early.jpg shows the predictions after iteration 1." in out
    assert (tmp_path / "pictures" / "early.jpg").exists()
    assert (tmp_path / "model_0000000.pth").exists()
    assert "APs" in out
    results = json.loads((tmp_path / "results.json").read_text())
    for task in ("bbox", "segm"):
        assert set(results[task]) == {"AP", "AP50", "AP75", "APs", "APm", "APl"}
    assert results["seconds"]["setup"] == 1.5
    stages = ["setup", "data", "training", "evaluation", "pictures", "report"]
    assert list(results["seconds"]) == stages
    assert "Confusion matrix" in (tmp_path / "report.html").read_text()
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines if "segm/AP" in line] == [2]
    assert len(list((tmp_path / "pictures").glob("0*.jpg"))) == 12
    model = (tmp_path / "model_final.pth").stat().st_mtime_ns

    run_demo(tmp_path, iterations=2)
    assert (tmp_path / "model_final.pth").stat().st_mtime_ns == model

    run_demo(tmp_path, iterations=3)
    assert (tmp_path / "model_final.pth").stat().st_mtime_ns > model
