"""The levels that features come from, against a loop over levels, boxes and features."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn
from torchvision.ops import roi_align

from panet.errors import InputError
from panet.evaluation.level_shares import LevelShares, count_level_shares

HEADS = {
    "2fc": ("box", []),
    "heavier": (
        "box",
        [
            *("MODEL.ROI_BOX_HEAD.NUM_CONV", 2, "MODEL.ROI_BOX_HEAD.NUM_FC", 1),
            *("MODEL.ROI_BOX_HEAD.NORM", "GN"),
        ],
    ),
    "mask": ("mask", []),
}
INPUTS = [
    [{"image": torch.rand(3, 256, 384, generator=torch.Generator().manual_seed(i)) * 255}]
    for i in range(2)
]


@pytest.fixture
def cfg(tiny_cfg: CfgNode) -> CfgNode:
    # As many boxes of each level.
    tiny_cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 4
    tiny_cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    tiny_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    return tiny_cfg


def first_layer(model: nn.Module, head: str) -> nn.Module:
    if head == "mask":
        return model.roi_heads.mask_head.mask_fcn1
    box_head = model.roi_heads.box_head
    return box_head.conv1 if hasattr(box_head, "conv1") else box_head.fc1


def pooled_boxes(model: nn.Module, inputs: list[dict[str, Any]], head: str) -> list[Tensor]:
    """The boxes that a head pools, one set for each call of its pooler."""
    seen = []
    pooler = getattr(model.roi_heads, f"{head}_pooler")
    handle = pooler.register_forward_pre_hook(lambda _, args: seen.append(args[1][0].tensor))
    with torch.no_grad():
        model.inference(inputs, do_postprocess=False)
    handle.remove()
    return seen


@torch.no_grad()
def reference(model: nn.Module, head: str) -> LevelShares:
    layer = first_layer(model, head)
    boxes, features = np.zeros(4, np.int64), np.zeros((4, 4), np.int64)
    size = 7 if head == "box" else 14
    for inputs in INPUTS:
        images = model.preprocess_image(inputs).tensor
        maps = list(model.backbone(images).values())[:4]
        for box in torch.cat(pooled_boxes(model, inputs, head)):
            side = ((box[2] - box[0]) * (box[3] - box[1])).sqrt().item()
            group = int(np.clip(np.floor(4 + np.log2(side / 224 + 1e-8)), 2, 5)) - 2
            roi = torch.cat([torch.zeros(1), box])[None]
            values = [
                layer.levels[i](roi_align(x, roi, size, 2.0 ** -(i + 2), 2, True)).relu().numpy()
                for i, x in enumerate(maps)
            ]
            stacked: npt.NDArray[np.float32] = np.stack(values).reshape(4, -1)
            winners = stacked.argmax(axis=0)[stacked.max(axis=0) > 0]
            boxes[group] += 1
            features[group] += np.bincount(winners, minlength=4)
    return LevelShares(("p2", "p3", "p4", "p5"), boxes, features)


@pytest.mark.parametrize("name", HEADS)
def test_equals_a_loop(cfg: CfgNode, name: str) -> None:
    head, options = HEADS[name]
    cfg.merge_from_list(options)
    model = build_model(cfg).eval()
    nn.init.normal_(model.roi_heads.box_predictor.bbox_pred.weight, std=0.05)
    expected = reference(model, head)
    found = count_level_shares(model, INPUTS, head)
    assert found.levels == expected.levels
    assert np.array_equal(found.boxes, expected.boxes)
    assert (found.boxes > 0).sum() >= 2
    # Rounding decides between levels that are almost equal.
    np.testing.assert_allclose(found.features, expected.features, rtol=0.01, atol=5)
    shares = found.shares[found.boxes > 0]
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert np.isnan(found.shares[found.boxes == 0]).all()


def test_a_level_that_wins_everywhere(cfg: CfgNode) -> None:
    model = build_model(cfg).eval()
    nn.init.constant_(model.roi_heads.box_head.fc1.levels[2].bias, 1e6)
    found = count_level_shares(model, INPUTS)
    for group in np.flatnonzero(found.boxes):
        assert found.shares[group].tolist() == [0, 0, 1, 0]


def test_equal_levels_count_for_the_first_and_zeros_for_none(cfg: CfgNode) -> None:
    model = build_model(cfg).eval()
    for level in model.roi_heads.box_head.fc1.levels:
        nn.init.zeros_(level.weight)
        with torch.no_grad():
            level.bias.copy_(torch.linspace(-1, 1, len(level.bias)))
    found = count_level_shares(model, INPUTS)
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
    cfg: CfgNode, options: list[Any], head: Any, message: str
) -> None:
    cfg.merge_from_list(options)
    with pytest.raises(InputError, match=message):
        count_level_shares(build_model(cfg).eval(), INPUTS, head)
