"""What a report reads of a run's folder."""

import json
from pathlib import Path

import pytest
from detectron2.config import CfgNode, LazyConfig
from small_runs import metrics, write_run

from panet.config_files import get_config_file
from panet.lazy_config import load_lazy_config
from panet.reporting import read_run
from panet.utils.errors import UserError


def test_metrics_are_read_in_the_order_of_iterations(tiny_cfg: CfgNode) -> None:
    run = read_run(write_run(tiny_cfg))
    assert list(run.metrics) == [19, 29, 39, 59, 60]
    for row in metrics():
        assert {"iteration": row["iteration"], **run.metrics[row["iteration"]]} == row


def test_what_was_repeated_counts_last_and_half_a_line_not(tiny_cfg: CfgNode) -> None:
    folder = write_run(tiny_cfg)
    with (folder / "metrics.json").open("a") as file:
        file.write(json.dumps({"iteration": 39, "total_loss": 0.25, "bbox/AP": float("nan")}))
        file.write('\n{"iteration": 79, "total_lo')
    run = read_run(folder)
    assert list(run.metrics) == [19, 29, 39, 59, 60]
    assert run.metrics[39]["total_loss"] == 0.25
    assert run.metrics[39]["lr"] == 0.01


def test_facts(tiny_cfg: CfgNode) -> None:
    tiny_cfg.SOLVER.MAX_ITER = 1000
    assert read_run(write_run(tiny_cfg)).facts == {
        "training data": "tiny_shapes",
        "test data": "tiny_shapes",
        "device": "cpu",
        "images per batch": "2",
        "iterations": "60 of 1,000",
        "time per iteration": "0.50 s (median)",
        "first and last line of the log": "03/01 10:00:00 and 03/01 10:05:30",
        "training time": "0:05:20",
        "peak GPU memory": "5120M",
        "processes": "2",
        "platform": "linux",
        "GPUs": "NVIDIA H100 80GB HBM3",
        "Python": "3.11.7",
        "PyTorch": "2.15.0+cu132",
        "torchvision": "0.29.2",
        "detectron2": "0.7.2",
        "numpy": "2.4.6",
    }


def test_overrides_and_the_folder_go_into_the_configuration(tiny_cfg: CfgNode) -> None:
    folder = write_run(tiny_cfg)
    moved = folder.rename(folder.with_name("moved"))
    run = read_run(moved, ["DATASETS.TEST", "('shapes_val',)"])
    assert run.cfg.DATASETS.TEST == ("shapes_val",)
    assert str(moved) == run.cfg.OUTPUT_DIR
    assert run.config_text == tiny_cfg.dump()


def test_a_folder_that_no_run_wrote_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no folder .*gone; give the OUTPUT_DIR"):
        read_run(tmp_path / "gone")
    with pytest.raises(UserError, match=r"has no config\.yaml; give the OUTPUT_DIR"):
        read_run(tmp_path)
    (tmp_path / "config.yaml").write_text("TEST: {NUM_PICTURE: 3}")
    with pytest.raises(UserError, match=r"TEST\.NUM_PICTURE; the closest is TEST\.NUM_PICTURES"):
        read_run(tmp_path)


def test_a_run_with_a_python_configuration_is_refused(tmp_path: Path) -> None:
    cfg = load_lazy_config(get_config_file("lazy/panet_faster_R50_1x.py"))
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    with pytest.raises(UserError, match=r"Python configuration; reports need a YAML config"):
        read_run(tmp_path)
