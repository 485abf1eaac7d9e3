"""Every configuration builds the model that its name says."""

from pathlib import Path

import pytest
import torch
from conftest import CONFIGS
from detectron2.modeling import build_model

from panet import load_config

FILES = sorted(p for p in CONFIGS.rglob("*.yaml") if not p.name.startswith("Base-"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(CONFIGS).as_posix())
def test_builds_and_runs(path: Path) -> None:
    cfg = load_config(str(path))
    cfg.MODEL.WEIGHTS = ""
    model = build_model(cfg).eval()
    with torch.no_grad():
        instances = model([{"image": torch.zeros(3, 64, 64)}])[0]["instances"]
    assert instances.has("pred_masks") == cfg.MODEL.MASK_ON
    assert len(model.backbone.bottom_up.res5) == (2 if "R18" in path.name else 3)
    assert len(model.backbone.bottom_up.res4) == {"18": 2, "50": 6, "101": 23}[depth(path)]


def depth(path: Path) -> str:
    return next(d for d in ("101", "50", "18") if d in path.name)


def test_the_2x_recipe() -> None:
    cfg = load_config(str(CONFIGS / "panet_R50_2x.yaml"))
    assert cfg.SOLVER.IMS_PER_BATCH == 16
    assert cfg.SOLVER.BASE_LR == 0.02
    assert cfg.SOLVER.MAX_ITER == 180_000
    assert cfg.SOLVER.STEPS == (120_000, 160_000)
    assert (min(cfg.INPUT.MIN_SIZE_TRAIN), max(cfg.INPUT.MIN_SIZE_TRAIN)) == (400, 1200)
    assert (cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (
        1400,
        1000,
        1400,
    )
    norms = (cfg.MODEL.FPN, cfg.MODEL.PAFPN, cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD)
    assert {node.NORM for node in norms} == {"GN"}
