"""Whole models: every switch, class-agnostic outputs, images with nothing in them."""

from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor

from panet.modeling import AllLevelPooler, AssignedLevelPooler, PANetROIHeads

SIZE = (96, 130)


def image_with_objects(boxes: list[list[float]]) -> dict[str, Any]:
    instances = Instances(SIZE)
    instances.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    instances.gt_classes = torch.arange(len(boxes)) % 4
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[int(y0) : int(y1), int(x0) : int(x1)] = True
    instances.gt_masks = BitMasks(masks)
    return {"image": torch.rand(3, *SIZE) * 255, "instances": instances}


FULL = [[5.0, 5.0, 60.0, 70.0], [40.0, 10.0, 120.0, 90.0]]


def losses_and_gradients(
    model: torch.nn.Module, batch: list[dict[str, Any]]
) -> tuple[dict[str, Tensor], list[str]]:
    """Losses of one step, and the parameters that it left without a gradient."""
    with EventStorage():
        losses = model.train()(batch)
    sum(losses.values()).backward()
    return losses, [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


def assert_trains(model: torch.nn.Module, batch: list[dict[str, Any]]) -> None:
    losses, without = losses_and_gradients(model, batch)
    assert all(loss.isfinite() for loss in losses.values())
    assert not without
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


SWITCHES = [
    ("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
    ("MODEL.ADAPTIVE_POOLING.ENABLED", False),
    ("MODEL.ADAPTIVE_POOLING.FUSION", "sum"),
    ("MODEL.ADAPTIVE_POOLING.POSITION", "before"),
    ("MODEL.FC_FUSION.SOURCE", "none"),
    ("MODEL.FC_FUSION.SOURCE", "conv2"),
    ("MODEL.FC_FUSION.SOURCE", "conv4"),
    ("MODEL.FC_FUSION.COMBINATION", "product"),
    ("MODEL.FC_FUSION.COMBINATION", "max"),
    ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
    ("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True),
    ("MODEL.ROI_BOX_HEAD.NUM_CONV", 4),
    ("MODEL.MASK_ON", False),
]


@pytest.mark.parametrize(("key", "value"), SWITCHES)
def test_every_switch_trains_and_detects(tiny_cfg: CfgNode, key: str, value: object) -> None:
    tiny_cfg.merge_from_list([key, value])
    model = build_model(tiny_cfg)
    assert isinstance(model.roi_heads, PANetROIHeads)
    assert_trains(model, [image_with_objects(FULL), image_with_objects(FULL[:1])])
    instances = model.eval()([image_with_objects(FULL)])[0]["instances"]
    assert instances.has("pred_masks") == tiny_cfg.MODEL.MASK_ON


def test_the_pooling_follows_the_switch(tiny_cfg: CfgNode) -> None:
    for enabled, pooler in ((True, AllLevelPooler), (False, AssignedLevelPooler)):
        tiny_cfg.MODEL.ADAPTIVE_POOLING.ENABLED = enabled
        heads = build_model(tiny_cfg).roi_heads
        assert type(heads.box_pooler) is type(heads.mask_pooler) is pooler
        assert (
            len(heads.box_head.fc1.levels)
            == len(heads.mask_head.mask_fcn1.levels)
            == (4 if enabled else 1)
        )


@pytest.mark.parametrize("norm", ["GN", "SyncBN"])
def test_images_without_objects(tiny_cfg: CfgNode, norm: str) -> None:
    tiny_cfg.MODEL.ROI_MASK_HEAD.NORM = norm
    assert_trains(build_model(tiny_cfg), [image_with_objects([]), image_with_objects([])])
    assert_trains(build_model(tiny_cfg), [image_with_objects([]), image_with_objects(FULL)])


def test_no_foreground_proposal(tiny_cfg: CfgNode) -> None:
    tiny_cfg.MODEL.ROI_HEADS.PROPOSAL_APPEND_GT = False
    tiny_cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS = [0.999]
    assert_trains(build_model(tiny_cfg), [image_with_objects(FULL)])


@pytest.mark.parametrize("masks", [True, False])
def test_no_proposals_at_inference(tiny_cfg: CfgNode, masks: bool) -> None:
    tiny_cfg.MODEL.MASK_ON = masks
    tiny_cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE = 10_000
    outputs = build_model(tiny_cfg).eval()([image_with_objects(FULL)] * 2)
    for output in outputs:
        assert len(output["instances"]) == 0
        assert output["instances"].image_size == SIZE
        if masks:
            assert output["instances"].pred_masks.shape == (0, *SIZE)


def test_no_detections_at_inference(tiny_cfg: CfgNode) -> None:
    tiny_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 1.0
    instances = build_model(tiny_cfg).eval()([image_with_objects(FULL)])[0]["instances"]
    assert instances.pred_masks.shape == (0, *SIZE)


@pytest.mark.parametrize("size", [(1, 1), (33, 257), (100, 31)])
def test_odd_image_sizes(tiny_cfg: CfgNode, size: tuple[int, int]) -> None:
    tiny_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    tiny_cfg.MODEL.FPN.OUT_CHANNELS = 64  # no group of the norm holds a single value
    instances = build_model(tiny_cfg).eval()([{"image": torch.rand(3, *size)}])[0]["instances"]
    assert instances.pred_masks.shape[1:] == size
