"""Cascade R-CNN on all levels, against detectron2's and its own stages one by one."""

from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from panet import optimize_for_inference
from panet.checkpoint.class_transfer import match_classes, transfer_classes
from panet.evaluation.level_shares import count_level_shares
from panet.modeling import CascadePANetROIHeads, FusedFirstLayer
from panet.modeling.pooler import PooledLevels
from panet.utils.errors import UserError

SIZE = (96, 128)
STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}


@pytest.fixture
def cascade_cfg(tiny_cfg: CfgNode) -> CfgNode:
    tiny_cfg.MODEL.ROI_HEADS.NAME = "CascadePANetROIHeads"
    tiny_cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    return tiny_cfg


def image_with_objects(boxes: list[list[float]]) -> dict[str, Any]:
    instances = Instances(SIZE)
    instances.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    instances.gt_classes = torch.arange(len(boxes)) % 4
    instances.gt_masks = BitMasks(torch.rand(len(boxes), *SIZE) > 0.5)
    return {"image": torch.rand(3, *SIZE) * 255, "instances": instances}


OBJECTS = [[5.0, 5.0, 60.0, 70.0], [40.0, 10.0, 120.0, 90.0]]


def proposals(count: int) -> list[Instances]:
    """Of one image, with no boxes outside."""
    corners = torch.rand(count, 2) * torch.tensor([SIZE[1] / 2, SIZE[0] / 2])
    instances = Instances(SIZE)
    instances.proposal_boxes = Boxes(torch.cat([corners, corners + 10 + 30 * torch.rand(1)], 1))
    return [instances]


def feature_maps(channels: int) -> list[Tensor]:
    return [
        torch.randn(1, channels, SIZE[0] // s, SIZE[1] // s, requires_grad=True)
        for s in STRIDES.values()
    ]


def first_layers(heads: CascadePANetROIHeads) -> list[FusedFirstLayer]:
    return [module for module in heads.box_head.modules() if isinstance(module, FusedFirstLayer)]


@pytest.mark.parametrize("convs", [0, 4])
def test_every_stage_has_first_layers_of_its_own(cascade_cfg: CfgNode, convs: int) -> None:
    cascade_cfg.MODEL.ROI_BOX_HEAD.NUM_CONV = convs
    heads = build_model(cascade_cfg).roi_heads
    layers = first_layers(heads)
    assert len(heads.box_head) == len(layers) == 3
    weights = [level.weight for layer in layers for level in layer.levels]
    assert len({weight.data_ptr() for weight in weights}) == len(weights) == 3 * 4
    assert all(not torch.equal(weights[0], other) for other in weights[1:])


def gradients(outputs: tuple[Tensor, Tensor], inputs: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(sum(o.square().sum() for o in outputs), inputs)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("stage", [0, 2])
def test_a_stage_gives_the_features_a_third_of_its_gradient(
    cascade_cfg: CfgNode, stage: int, recompute: bool
) -> None:
    cascade_cfg.MODEL.ADAPTIVE_POOLING.RECOMPUTE = recompute
    heads = build_model(cascade_cfg).roi_heads.train()
    features, boxes = feature_maps(32), proposals(12)
    parameters = list(heads.box_head[stage].parameters())
    outputs = heads._run_stage(features, boxes, stage)
    levels = heads.box_pooler(features, [boxes[0].proposal_boxes])
    pooled = torch.stack([levels[i] for i in range(len(levels))])
    expected = heads.box_predictor[stage](heads.box_head[stage](pooled))
    for output, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, reference)
    whole = gradients(expected, [*features, *parameters])
    for index, gradient in enumerate(gradients(outputs, [*features, *parameters])):
        factor = 1 / 3 if index < len(features) else 1.0
        torch.testing.assert_close(gradient, factor * whole[index], rtol=1e-4, atol=1e-5)


def test_on_assigned_levels_a_stage_is_detectron2s(cascade_cfg: CfgNode) -> None:
    cascade_cfg.MODEL.ADAPTIVE_POOLING.ENABLED = False
    heads = build_model(cascade_cfg).roi_heads.train()
    features, boxes = feature_maps(32), proposals(12)
    inputs = [*features, *heads.box_head[1].parameters()]
    outputs = heads._run_stage(features, boxes, 1)
    expected = CascadeROIHeads._run_stage(heads, features, boxes, 1)
    for ours, reference in (
        *zip(outputs, expected, strict=True),
        *zip(gradients(outputs, inputs), gradients(expected, inputs), strict=True),
    ):
        torch.testing.assert_close(ours, reference)


def test_levels_are_still_pooled_one_at_a_time(cascade_cfg: CfgNode) -> None:
    heads = build_model(cascade_cfg).roi_heads.train()
    seen: list[type] = []
    heads.box_head[0].register_forward_pre_hook(lambda _, inputs: seen.append(type(inputs[0])))
    heads._run_stage(feature_maps(32), proposals(3), 0)
    assert seen == [PooledLevels]


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("adaptive", [True, False])
def test_trains_and_detects(cascade_cfg: CfgNode, masks: bool, adaptive: bool) -> None:
    cascade_cfg.MODEL.MASK_ON = masks
    cascade_cfg.MODEL.ADAPTIVE_POOLING.ENABLED = adaptive
    model = build_model(cascade_cfg)
    with EventStorage():
        losses = model.train()([image_with_objects(OBJECTS), image_with_objects([])])
    assert {f"loss_{kind}_stage{i}" for kind in ("cls", "box_reg") for i in range(3)} < set(losses)
    assert ("loss_mask" in losses) == masks
    sum(losses.values()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    instances = model.eval()([image_with_objects(OBJECTS)])[0]["instances"]
    assert instances.has("pred_masks") == masks


def detect(model: nn.Module) -> Instances:
    image = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(3)) * 255
    with torch.no_grad():
        return model([{"image": image}])[0]["instances"]


def detecting(cfg: CfgNode) -> nn.Module:
    """With weights under which every class is detected."""
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    model = build_model(cfg).eval()
    for predictor in model.roi_heads.box_predictor:
        nn.init.normal_(predictor.cls_score.weight, std=0.05)
        nn.init.normal_(predictor.bbox_pred.weight, std=0.05)
    return model


def test_optimized_for_inference(cascade_cfg: CfgNode) -> None:
    model = detecting(cascade_cfg)
    expected = detect(model)
    exact = detect(optimize_for_inference(model))
    assert len(exact) == len(expected) > 0
    torch.testing.assert_close(exact.scores, expected.scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        exact.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=1e-4, atol=1e-2
    )
    optimized = optimize_for_inference(model, torch.bfloat16)
    for predictor in optimized.roi_heads.box_predictor:
        assert predictor.cls_score.weight.dtype == torch.float32
    rounded = detect(optimized)
    assert rounded.scores[0] == pytest.approx(expected.scores[0].item(), abs=0.05)


def test_levels_are_counted_for_the_first_stage(cascade_cfg: CfgNode) -> None:
    model = detecting(cascade_cfg)
    # In the other stages another level wins.
    for stage, layer in enumerate(first_layers(model.roi_heads)):
        nn.init.constant_(layer.levels[3 if stage == 0 else 1].bias, 1e6)
    found = count_level_shares(model, [[image_with_objects([])]])
    assert found.boxes.sum() == cascade_cfg.MODEL.RPN.POST_NMS_TOPK_TEST
    for group in np.flatnonzero(found.boxes):
        assert found.shares[group].tolist() == [0, 0, 0, 1]
    assert count_level_shares(model, [[image_with_objects([])]], "mask").boxes.sum() > 0


def test_every_stage_takes_over_the_classes_that_it_knows(cascade_cfg: CfgNode) -> None:
    source = build_model(cascade_cfg).state_dict()
    cascade_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    model = build_model(cascade_cfg)
    classes, source_classes = ["c", "new"], ["a", "b", "c", "d"]
    state = dict(source)
    transfer_classes(
        state, model.state_dict(), classes, source_classes, match_classes(classes, source_classes)
    )
    model.load_state_dict(state)
    for stage in range(3):
        scores = f"roi_heads.box_predictor.{stage}.cls_score.weight"
        boxes = f"roi_heads.box_predictor.{stage}.bbox_pred.weight"
        assert torch.equal(model.state_dict()[scores][[0, 2]], source[scores][[2, 4]])
        assert torch.equal(model.state_dict()[boxes], source[boxes])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", False], "CLS_AGNOSTIC_BBOX_REG is False"),
        (["MODEL.ROI_HEADS.IOU_THRESHOLDS", [0.4]], r"IOUS is \(0\.5.*IOU_THRESHOLDS, 0\.4"),
        (["MODEL.ROI_BOX_CASCADE_HEAD.IOUS", (0.5, 0.6)], "as many values as .*BBOX_REG_WEIGHTS"),
    ],
)
def test_what_cannot_be_cascaded_is_refused(
    cascade_cfg: CfgNode, options: list[Any], message: str
) -> None:
    cascade_cfg.merge_from_list(options)
    with pytest.raises(UserError, match=message):
        build_model(cascade_cfg)
