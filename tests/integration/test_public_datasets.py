"""Tests of training and evaluation on small imitations of public datasets."""

import os
import subprocess
import sys
from pathlib import Path

from paths import CONFIGS, ROOT
from small_datasets import write_cityscapes, write_vistas

SMALL = {
    "MODEL.WEIGHTS": "''",
    "MODEL.DEVICE": "cpu",
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 20,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 32,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 32,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "INPUT.MIN_SIZE_TRAIN": "(64, 80)",
    "INPUT.MIN_SIZE_TEST": 64,
    "DATALOADER.NUM_WORKERS": 1,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 2,
    "TEST.DETECTIONS_PER_IMAGE": 10,
}


def train_net(
    config: str, datasets: Path, output_dir: Path, *flags: str, **overrides: object
) -> subprocess.CompletedProcess[str]:
    """Run train_net.py on a small version of a configuration."""
    options = {**SMALL, "OUTPUT_DIR": output_dir, **overrides}
    command = [
        *(sys.executable, ROOT / "train_net.py", "--config-file", CONFIGS / config, *flags),
        *(str(item) for pair in options.items() for item in pair),
    ]
    environment = {**os.environ, "DETECTRON2_DATASETS": str(datasets)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def assert_input_error(run: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Check that the run ended with a one-line error message that contains these parts."""
    assert run.returncode == 2, run.stderr
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert all(part in errors[0] for part in parts), errors
    assert run.stderr.rstrip().endswith(errors[0])
    assert "Traceback" not in run.stderr


def test_cityscapes(tmp_path: Path) -> None:
    config, out = "cityscapes/panet_R50_imagenet.yaml", tmp_path / "out"
    write_cityscapes(tmp_path / "cityscapes")
    run = train_net(config, tmp_path, out)
    assert run.returncode == 0, run.stderr
    assert "copypaste: AP,AP50\n" in run.stdout
    assert (out / "model_final.pth").exists()
    polygons = next(tmp_path.rglob("gtFine/val/aachen/*_polygons.json"))
    polygons.unlink()
    weights = {"MODEL.WEIGHTS": out / "model_final.pth"}
    run = train_net(config, tmp_path, out, "--eval-only", **weights)
    assert_input_error(run, "'cityscapes_fine_instance_seg_val'", str(polygons))


def test_vistas(tmp_path: Path) -> None:
    config, out = "mapillary/panet_R50_vistas.yaml", tmp_path / "out"
    write_vistas(tmp_path / "mapillary_vistas")
    classes = {"MODEL.ROI_HEADS.NUM_CLASSES": 3}
    run = train_net(config, tmp_path, out, **classes)
    assert run.returncode == 0, run.stderr
    metrics = [line for line in run.stdout.splitlines() if "copypaste: " in line]
    assert [line.split()[-1] for line in metrics[0::3]] == ["bbox", "segm"]

    weights = {"MODEL.WEIGHTS": out / "model_final.pth", "DATALOADER.NUM_WORKERS": 0}
    two = ("--eval-only", "--num-gpus", "2", "--dist-url", "auto")
    run = train_net(config, tmp_path, tmp_path / "again", *two, **classes, **weights)
    assert run.returncode == 0, run.stderr
    again = [line for line in run.stdout.splitlines() if "copypaste: " in line]
    assert [line.split()[-1] for line in again] == [line.split()[-1] for line in metrics]
    assert len(list((tmp_path / "again" / "inference").glob("mapillary_vistas_val_*.json"))) == 1

    for path in (tmp_path / "mapillary_vistas").glob("training/instances/*.png"):
        path.write_bytes(b"")
    run = train_net(config, tmp_path, out, **classes)
    assert_input_error(run, "is not a PNG with one 16-bit channel")
