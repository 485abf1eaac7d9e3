"""The levels that fused features come from, against a plain count over torchvision's RoIAlign."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import nn
from torchvision.ops import roi_align

from panet.evaluation.level_shares import LevelShares, count_level_shares
from panet.modeling import FusedFirstLayer
from panet.utils.errors import UserError

SIZE = (512, 512)
LEVELS = ("p2", "p3", "p4", "p5")
# By the square root of their areas, 3 are for p2, 2 for p3, none for p4 and 1 for p5.
BOXES = [
    [10.0, 20.0, 40.0, 50.0],
    [200.0, 100.0, 300.0, 210.0],
    [400.0, 400.0, 500.0, 430.0],
    [50.0, 60.0, 200.0, 260.0],
    [100.0, 100.0, 400.0, 200.0],
    [2.0, 3.0, 505.0, 508.0],
]
# What FPN's rule makes of the square root of an area: up to here p2, p3, p4.
LIMITS = (112, 224, 448)


def image_with_proposals(boxes: list[list[float]]) -> dict[str, Any]:
    proposals = Instances(SIZE)
    proposals.proposal_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    proposals.objectness_logits = torch.zeros(len(boxes))
    return {"image": torch.rand(3, *SIZE) * 255, "proposals": proposals}


def model_on_given_proposals(cfg: CfgNode, *opts: object) -> nn.Module:
    """A model of random weights under which every level wins somewhere."""
    cfg.merge_from_list(list(opts))
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    model = build_model(cfg).eval()
    for layer in first_layers(model):
        for level in layer.levels:
            for parameter in level.parameters():
                nn.init.normal_(parameter, std=0.1)
    return model


def first_layers(model: nn.Module) -> list[FusedFirstLayer]:
    return [module for module in model.modules() if isinstance(module, FusedFirstLayer)]


@torch.no_grad()
def slow_count(
    model: nn.Module, batch: list[dict[str, Any]], head: str, resolution: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The boxes of each group, and the features that each level supplied to it."""
    layer = first_layers(getattr(model.roi_heads, f"{head}_head"))[0]
    features = model.backbone(model.preprocess_image(batch).tensor)
    if head == "box":
        box_lists = [record["proposals"].proposal_boxes.tensor for record in batch]
    else:
        detections = model.inference(batch, do_postprocess=False)
        box_lists = [instances.pred_boxes.tensor for instances in detections]
    values = np.stack(
        [
            own_layer(roi_align(features[name], box_lists, resolution, 1 / stride, 2, True))
            .relu()
            .flatten(1)
            .numpy()
            for name, stride, own_layer in zip(LEVELS, (4, 8, 16, 32), layer.levels)
        ]
    )
    boxes, counts = np.zeros(4, np.int64), np.zeros((4, 4), np.int64)
    for i, (x0, y0, x1, y1) in enumerate(torch.cat(box_lists).tolist()):
        group = sum(math.sqrt((x1 - x0) * (y1 - y0)) >= limit for limit in LIMITS)
        boxes[group] += 1
        for source in np.argmax(values[:, i], axis=0)[values[:, i].max(axis=0) > 0]:
            counts[group, source] += 1
    return boxes, counts


def assert_same_count(
    result: LevelShares, boxes: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> None:
    assert result.levels == LEVELS
    np.testing.assert_array_equal(result.boxes, boxes)
    # Rounding decides between levels that are all but equal.
    np.testing.assert_allclose(result.features, counts, atol=1e-3 * counts.sum())
    for group in range(4):
        if boxes[group] > 0:
            assert result.shares[group].sum() == pytest.approx(1)
            np.testing.assert_allclose(
                result.shares[group], counts[group] / counts[group].sum(), atol=0.01
            )
        else:
            assert np.isnan(result.shares[group]).all()
            assert not result.features[group].any()


@pytest.mark.parametrize("convs", [0, 4])
def test_box_head_on_batches_of_any_size(tiny_cfg: CfgNode, convs: int) -> None:
    model = model_on_given_proposals(
        tiny_cfg, "MODEL.ROI_BOX_HEAD.NUM_CONV", convs, "MODEL.ROI_BOX_HEAD.FC_DIM", 256
    )
    batch = [image_with_proposals(BOXES[:2]), image_with_proposals(BOXES[2:])]
    boxes, counts = slow_count(model, batch, "box", resolution=7)
    np.testing.assert_array_equal(boxes, [3, 2, 0, 1])
    assert (counts[boxes > 0] > 0.05 * counts.sum(axis=1, keepdims=True)[boxes > 0]).all()
    assert_same_count(count_level_shares(model, [batch]), boxes, counts)
    assert_same_count(count_level_shares(model, [[record] for record in batch]), boxes, counts)


def test_mask_head_sees_the_detections(tiny_cfg: CfgNode) -> None:
    model = model_on_given_proposals(tiny_cfg)
    batch = [image_with_proposals(BOXES)]
    boxes, counts = slow_count(model, batch, "mask", resolution=14)
    assert (boxes > 0).sum() >= 3
    assert boxes.sum() != len(BOXES)
    assert_same_count(count_level_shares(model, [batch], "mask"), boxes, counts)


def test_leaves_the_detections_and_the_model_as_they_are(tiny_cfg: CfgNode) -> None:
    model = model_on_given_proposals(tiny_cfg)
    batch = [image_with_proposals(BOXES)]
    before = model(batch)[0]["instances"]
    first = count_level_shares(model, [batch])
    assert not any(layer._forward_hooks for layer in first_layers(model))
    after = model(batch)[0]["instances"]
    assert torch.equal(before.pred_boxes.tensor, after.pred_boxes.tensor)
    assert torch.equal(before.scores, after.scores)
    np.testing.assert_array_equal(first.features, count_level_shares(model, [batch]).features)


@pytest.mark.parametrize("head", ["box", "mask"])
def test_image_without_boxes(tiny_cfg: CfgNode, head: str) -> None:
    model = model_on_given_proposals(tiny_cfg)
    result = count_level_shares(model, [[image_with_proposals([])]], head)
    assert result.boxes.tolist() == [0, 0, 0, 0]
    assert np.isnan(result.shares).all()


def test_a_level_that_wins_everywhere(tiny_cfg: CfgNode) -> None:
    model = model_on_given_proposals(tiny_cfg)
    nn.init.constant_(model.roi_heads.box_head.fc1.levels[2].bias, 1e6)
    found = count_level_shares(model, [[image_with_proposals(BOXES)]])
    for group in np.flatnonzero(found.boxes):
        assert found.shares[group].tolist() == [0, 0, 1, 0]


def test_equal_levels_count_for_the_first_and_zeros_for_none(tiny_cfg: CfgNode) -> None:
    model = model_on_given_proposals(tiny_cfg)
    for level in model.roi_heads.box_head.fc1.levels:
        nn.init.zeros_(level.weight)
        with torch.no_grad():
            level.bias.copy_(torch.linspace(-1, 1, len(level.bias)))
    found = count_level_shares(model, [[image_with_proposals(BOXES)]])
    positive = len(level.bias) // 2
    assert found.features[:, 0].tolist() == (positive * found.boxes).tolist()
    assert not found.features[:, 1:].any()


@pytest.mark.parametrize(
    ("options", "head", "message"),
    [
        (["MODEL.ADAPTIVE_POOLING.FUSION", "sum"], "box", "FUSION is 'sum'"),
        (["MODEL.ADAPTIVE_POOLING.POSITION", "before"], "mask", "POSITION is 'before'"),
        (["MODEL.ADAPTIVE_POOLING.ENABLED", False], "box", "does not pool from all levels"),
        (["MODEL.ROI_HEADS.NAME", "StandardROIHeads"], "box", "does not pool from all levels"),
        (["MODEL.MASK_ON", False], "mask", "has no mask head"),
    ],
)
def test_other_models_are_refused(
    tiny_cfg: CfgNode, options: list[Any], head: Any, message: str
) -> None:
    tiny_cfg.merge_from_list(options)
    with pytest.raises(UserError, match=message):
        count_level_shares(build_model(tiny_cfg).eval(), [], head)
