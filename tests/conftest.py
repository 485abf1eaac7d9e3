"""Fixtures with a small model and a small dataset."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Parallel test processes share the cores. PyTorch reads the variable on import.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# detectron2 and panet read this on import.
os.environ["DETECTRON2_DATASETS"] = tempfile.mkdtemp(prefix="panet-tests-")

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from paths import CONFIGS

from panet import load_config
from panet.data import shapes

atexit.register(shutil.rmtree, os.environ["DETECTRON2_DATASETS"], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests in ``tests/integration``."""
    for item in items:
        if item.path.parent.name == "integration":
            item.add_marker(pytest.mark.integration)


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False  # full single precision on GPUs


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Register a dataset of 12 images of shapes and yield its name."""
    root = tmp_path_factory.mktemp("tiny")
    name = "tiny_shapes"
    shapes.write_split(shapes.Split("tiny", 12, seed=7), root / "images", root / "tiny.json")
    register_coco_instances(name, {}, str(root / "tiny.json"), str(root / "images"))
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.fixture
def tiny_cfg(tiny_dataset: str, tmp_path: Path) -> CfgNode:
    """Return a smaller version of the quick configuration, on the tiny dataset."""
    config_file = CONFIGS / "quick" / "panet_R18_shapes.yaml"
    cfg = load_config(str(config_file), ["MODEL.DEVICE", "cpu"])
    cfg.MODEL.ADAPTIVE_POOLING.RECOMPUTE = True
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE = False, "float16"
    cfg.SOLVER.BASE_LR = 0.0006
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_BOX_HEAD.CONV_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 64
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 50
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    cfg.INPUT.MIN_SIZE_TRAIN = (96,)
    cfg.INPUT.MIN_SIZE_TEST = 96
    cfg.DATASETS.TRAIN = (tiny_dataset,)
    cfg.DATASETS.TEST = (tiny_dataset,)
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SOLVER.MAX_ITER = 4
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    return cfg
