"""What an ablation's trainings come to: the tables and the plot."""

import csv
import sys
from pathlib import Path
from typing import Any

import cv2
from conftest import CONFIGS

sys.path.append(str(CONFIGS.parent / "benchmarks"))

import comparison


def result(row: str, seed: int, ap: float, seconds: float, parameters: int = 10**6) -> Any:
    metrics = {name: ap + i for i, name in enumerate(comparison.METRICS[:5])} | {
        "APl": float("nan")
    }
    return {
        "row": row,
        "seed": seed,
        "metrics": {"bbox": {k: 2 * v for k, v in metrics.items()}, "segm": metrics},
        "seconds_per_iteration": seconds,
        "parameters": parameters,
        "multiply_adds": 3_210_000_000,
        "iterations": 1500,
        "device": "cpu",
        "machine": "2 threads",
        "versions": {"torch": "2.0"},
    }


def test_tables_and_plot(tmp_path: Path) -> None:
    results = [
        result("mask-rcnn", 1, 30.0, 2.0),
        result("mask-rcnn", 2, 34.0, 4.0),
        result("bottom-up", 2, 37.0, 4.5, parameters=1_250_000),
        result("bottom-up", 9, 38.0, 4.5, parameters=1_250_000),
        result("both", 2, 35.0, 6.0),
    ]
    comparison.write_comparison(results, tmp_path)
    lines = list(csv.DictReader((tmp_path / "ablation.csv").open()))
    assert [(line["row"], line["seed"]) for line in lines] == [
        (entry["row"], str(entry["seed"])) for entry in results
    ]
    assert (lines[2]["box AP"], lines[2]["mask AP75"]) == ("74.0", "39.0")
    assert (lines[1]["seconds_per_iteration"], lines[1]["torch"]) == ("4.0", "2.0")
    table = (tmp_path / "ablation.md").read_text().split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    header, _, *rows = cells
    first, second, third = (dict(zip(header, row)) for row in rows)
    assert first[""] == "Mask R-CNN"
    assert (first["mask AP"], second["mask AP"]) == ("32.0 ± 2.8", "37.5 ± 0.7")
    assert (first["box AP"], second["mask AP50"]) == ("64.0 ± 5.7", "38.5 ± 0.7")
    assert second["mask APl"] == ""
    assert (first["gain in mask AP"], second["gain in mask AP"]) == ("", "+3.0")  # of seed 2
    assert (second["over"], second["seeds"]) == ("Mask R-CNN", "2")
    assert (third["over"], third["gain in mask AP"]) == ("+ bottom-up path", "-2.0")
    assert (first["over Mask R-CNN"], third["over Mask R-CNN"]) == ("", "+1.0")
    assert (first["time"], second["time"]) == ("1.00", "1.50")
    assert (second["10^6 parameters"], second["10^9 multiply-adds"]) == ("1.25", "3.21")
    assert cv2.imread(str(tmp_path / "ablation.png")).std() > 0
