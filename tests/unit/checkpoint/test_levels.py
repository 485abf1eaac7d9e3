"""Weights of detectron2's Mask R-CNN in PANet."""

import logging
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from small_models import find_much

from panet.checkpoint import build_checkpointer
from panet.checkpoint.levels import copy_to_levels

STOCK = [
    *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
    *("MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
    *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"),
    *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
]
ALL_OFF = [
    *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
    *("MODEL.ADAPTIVE_POOLING.ENABLED", False),
    *("MODEL.FC_FUSION.SOURCE", "none"),
]
HEADS = {
    "2fc": [],
    "heavier": ["MODEL.ROI_BOX_HEAD.NUM_CONV", 4, "MODEL.ROI_BOX_HEAD.NUM_FC", 1],
    "norms": [
        *("MODEL.ROI_BOX_HEAD.NUM_CONV", 4, "MODEL.ROI_BOX_HEAD.NORM", "GN"),
        *("MODEL.ROI_MASK_HEAD.NORM", "GN"),
    ],
}


@pytest.fixture(params=HEADS.values(), ids=HEADS)
def mask_rcnn(
    request: pytest.FixtureRequest, tiny_cfg: CfgNode, tmp_path: Path
) -> tuple[CfgNode, torch.nn.Module]:
    """A configuration of PANet, and a Mask R-CNN whose weights it names."""
    tiny_cfg.merge_from_list(request.param)
    tiny_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    stock_cfg = tiny_cfg.clone()
    stock_cfg.merge_from_list(STOCK)
    stock = find_much(build_model(stock_cfg)).eval()
    tiny_cfg.MODEL.WEIGHTS = str(tmp_path / "mask_rcnn.pth")
    torch.save({"model": stock.state_dict()}, tiny_cfg.MODEL.WEIGHTS)
    return tiny_cfg, stock


def test_with_every_part_off_it_computes_the_same(
    mask_rcnn: tuple[CfgNode, torch.nn.Module],
) -> None:
    cfg, stock = mask_rcnn
    cfg.merge_from_list(ALL_OFF)
    model = build_model(cfg).eval()
    build_checkpointer(cfg, model).load(cfg.MODEL.WEIGHTS)
    image = [{"image": torch.rand(3, 96, 128) * 255}]
    with torch.no_grad():
        (expected,), (found,) = stock(image), model(image)
    assert len(expected["instances"]) > 0
    assert torch.equal(found["instances"].scores, expected["instances"].scores)
    assert torch.equal(
        found["instances"].pred_boxes.tensor, expected["instances"].pred_boxes.tensor
    )
    assert torch.equal(found["instances"].pred_masks, expected["instances"].pred_masks)


def test_every_level_starts_from_the_single_first_layer(
    mask_rcnn: tuple[CfgNode, torch.nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    cfg, stock = mask_rcnn
    model = build_model(cfg)
    with caplog.at_level(logging.INFO):
        build_checkpointer(cfg, model).load(cfg.MODEL.WEIGHTS)
    ours, theirs = model.state_dict(), stock.state_dict()
    first = "conv1" if cfg.MODEL.ROI_BOX_HEAD.NUM_CONV else "fc1"
    for layer in (f"roi_heads.box_head.{first}", "roi_heads.mask_head.mask_fcn1"):
        for level in range(4):
            assert torch.equal(ours[f"{layer}.levels.{level}.weight"], theirs[f"{layer}.weight"])
    assert "Copied to every level: roi_heads.box_head." in caplog.text


def test_what_a_checkpoint_has_is_kept() -> None:
    state = {"fc1.weight": 1, "fc1.levels.0.weight": 2, "fc2.weight": 3}
    names = [f"fc1.levels.{level}.weight" for level in range(2)]
    assert copy_to_levels(state, names) == ["fc1.weight"]
    assert state == {"fc1.levels.0.weight": 2, "fc1.levels.1.weight": 1, "fc2.weight": 3}
