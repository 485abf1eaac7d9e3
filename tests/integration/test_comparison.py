"""Tests of the tables and the plot of the ablation benchmark."""

import csv
import sys
from pathlib import Path
from typing import Any

import cv2
from paths import CONFIGS

sys.path.append(str(CONFIGS.parent / "benchmarks"))

import comparison


def result(row: str, seed: int, ap: float, seconds: float, parameters: int = 10**6) -> Any:
    metrics = {name: ap + i for i, name in enumerate(comparison.METRICS)} | {"APl": float("nan")}
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


def read_tables(markdown: str) -> list[dict[str, dict[str, str]]]:
    """Parse each table into its lines, keyed by the first cell."""
    tables = []
    for block in markdown.split("\n\n"):
        if block.startswith("|"):
            cells = [
                [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
            ]
            tables.append({line[0]: dict(zip(cells[0], line)) for line in cells[2:]})
    return tables


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
    masks, boxes, costs = read_tables((tmp_path / "ablation.md").read_text())
    assert list(masks) == ["Mask R-CNN", "+ bottom-up path", "+ both"]
    assert [masks[row]["mask AP"] for row in masks] == ["32.0 ± 2.8", "37.5 ± 0.7", "35.0"]
    assert [boxes[row]["box AP"] for row in boxes] == ["64.0 ± 5.7", "75.0 ± 1.4", "70.0"]
    assert masks["+ bottom-up path"]["seeds"] == "2"
    assert masks["+ bottom-up path"]["mask AP50"] == "38.5 ± 0.7"
    assert masks["+ bottom-up path"]["mask APl"] == ""
    assert [masks[row]["over"] for row in masks] == ["", "Mask R-CNN", "+ bottom-up path"]
    assert [masks[row]["gain"] for row in masks] == ["", "+3.0", "-2.0"]  # of seed 2
    assert [boxes[row]["gain"] for row in masks] == ["", "+6.0", "-4.0"]
    assert [masks[row]["over Mask R-CNN"] for row in masks] == ["", "+3.0", "+1.0"]
    assert [costs[row]["time"] for row in masks] == ["1.00", "1.50", "2.00"]
    assert costs["+ bottom-up path"]["parameters, millions"] == "1.25"
    assert costs["+ bottom-up path"]["MACs, billions"] == "3.21"
    assert cv2.imread(str(tmp_path / "ablation.png")).std() > 0
