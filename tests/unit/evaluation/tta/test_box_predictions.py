"""Box predictions against a plain implementation of the box branch."""

import math

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import ROIHeads
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from panet.evaluation.tta.box_predictions import choose_candidates, predict_boxes
from panet.utils.errors import UserError

STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
HEIGHT, WIDTH = 128, 160
NUM_CLASSES, CHANNELS = 4, 32

Features = dict[str, Tensor]


def make_features() -> Features:
    return {
        name: torch.randn(2, CHANNELS, HEIGHT // stride, WIDTH // stride)
        for name, stride in STRIDES.items()
    }


def make_proposals(count: int) -> Instances:
    corners = torch.rand(count, 2) * torch.tensor([WIDTH - 20.0, HEIGHT - 20.0])
    boxes = torch.cat([corners, corners + 4 + torch.rand(count, 2) * 120], dim=1)
    boxes[0] = torch.tensor([0.0, 0.0, WIDTH, HEIGHT])
    limits = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    return Instances((HEIGHT, WIDTH), proposal_boxes=Boxes(boxes.minimum(limits)))


def make_roi_heads(cfg: CfgNode, name: str, agnostic: bool) -> ROIHeads:
    cfg.MODEL.ROI_HEADS.NAME = name
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = agnostic
    if "PANet" not in name:
        cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
        cfg.MODEL.ADAPTIVE_POOLING.ENABLED = False
    roi_heads = build_model(cfg).eval().roi_heads
    predictors = roi_heads.box_predictor
    for predictor in predictors if isinstance(predictors, nn.ModuleList) else [predictors]:
        nn.init.normal_(predictor.cls_score.weight, std=0.1)
        nn.init.normal_(predictor.bbox_pred.weight, std=0.1)
    return roi_heads


def pool(features: Features, image: int, box: Tensor, level: str) -> Tensor:
    """One box on one level: (1, C * 7 * 7)."""
    maps = features[level][image : image + 1]
    scale = 1 / STRIDES[level]
    return roi_align(maps, [box[None]], 7, scale, sampling_ratio=2, aligned=True).flatten(1)


def fpn_level(box: Tensor) -> str:
    x0, y0, x1, y1 = box.tolist()
    level = math.floor(4 + math.log2(math.sqrt((x1 - x0) * (y1 - y0)) / 224 + 1e-8))
    return f"p{min(max(level, 2), 5)}"


def reference_head(head: nn.Module, features: Features, image: int, box: Tensor) -> Tensor:
    if hasattr(head.fc1, "levels"):
        layers = zip(head.fc1.levels, STRIDES)
        each = [F.linear(pool(features, image, box, k), fc.weight, fc.bias) for fc, k in layers]
        x = torch.stack(each).amax(0).relu()
    else:
        pooled = pool(features, image, box, fpn_level(box))
        x = F.linear(pooled, head.fc1.weight, head.fc1.bias).relu()
    return F.linear(x, head.fc2.weight, head.fc2.bias).relu()


def move(box: Tensor, deltas: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """Apply (dx, dy, dw, dh) of every class to one box."""
    x0, y0, x1, y1 = box.tolist()
    width, height = x1 - x0, y1 - y0
    boxes = []
    for dx, dy, dw, dh in (deltas.view(-1, 4) / torch.tensor(weights)).tolist():
        x, y = x0 + width / 2 + dx * width, y0 + height / 2 + dy * height
        w = width * math.exp(min(dw, math.log(1000 / 16)))
        h = height * math.exp(min(dh, math.log(1000 / 16)))
        boxes += [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
    return torch.tensor(boxes)


def reference(roi_heads: ROIHeads, features: Features, image: int, box: Tensor) -> list[Tensor]:
    """Boxes and class probabilities of one proposal."""
    heads, predictors = roi_heads.box_head, roi_heads.box_predictor
    if not isinstance(heads, nn.ModuleList):
        heads, predictors = [heads], [predictors]
    all_weights = [
        (10.0, 10.0, 5.0, 5.0),
        (20.0, 20.0, 10.0, 10.0),
        (30.0, 30.0, 15.0, 15.0),
    ]
    moved, scores = box, []
    for stage, (head, predictor) in enumerate(zip(heads, predictors)):
        if stage > 0:
            size = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
            box = moved.clamp(min=0).minimum(size)
        x = reference_head(head, features, image, box)
        logits = F.linear(x, predictor.cls_score.weight, predictor.cls_score.bias)[0]
        deltas = F.linear(x, predictor.bbox_pred.weight, predictor.bbox_pred.bias)[0]
        moved = move(box, deltas, all_weights[stage])
        scores.append(logits.exp() / logits.exp().sum())
    return [moved, torch.stack(scores).mean(0)]


@pytest.mark.parametrize(
    ("name", "agnostic"),
    [
        ("StandardROIHeads", False),
        ("PANetROIHeads", False),
        ("PANetROIHeads", True),
        ("CascadeROIHeads", True),
        ("CascadePANetROIHeads", True),
    ],
)
@torch.no_grad()
def test_predictions_equal_a_plain_implementation(
    tiny_cfg: CfgNode, name: str, agnostic: bool
) -> None:
    roi_heads = make_roi_heads(tiny_cfg, name, agnostic)
    features, proposals = make_features(), [make_proposals(6), make_proposals(3)]
    boxes, scores = predict_boxes(roi_heads, features, proposals)
    assert len(boxes) == len(scores) == 2
    for image, instances in enumerate(proposals):
        rows = [reference(roi_heads, features, image, box) for box in instances.proposal_boxes]
        expected_boxes, expected_scores = map(torch.stack, zip(*rows))
        assert boxes[image].shape == (len(instances), 4 if agnostic else 4 * NUM_CLASSES)
        assert scores[image].shape == (len(instances), NUM_CLASSES + 1)
        torch.testing.assert_close(boxes[image], expected_boxes, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(scores[image], expected_scores, atol=1e-5, rtol=1e-4)
        given = instances.proposal_boxes.tensor
        assert (boxes[image][:, :4] - given).abs().max() > 0.5, "the boxes have not moved"


def test_images_without_proposals(tiny_cfg: CfgNode) -> None:
    for name in ("PANetROIHeads", "CascadePANetROIHeads"):
        roi_heads = make_roi_heads(tiny_cfg, name, agnostic=True)
        proposals = [make_proposals(2), make_proposals(2)[:0]]
        with torch.no_grad():
            boxes, scores = predict_boxes(roi_heads, make_features(), proposals)
        assert [len(b) for b in boxes] == [len(s) for s in scores] == [2, 0]


def test_unsupported_roi_heads_are_refused() -> None:
    other = ROIHeads(num_classes=4, batch_size_per_image=1, positive_fraction=1, proposal_matcher=0)
    with pytest.raises(UserError, match=r"do not support the RoI heads ROIHeads; MODEL\.ROI_HEAD"):
        predict_boxes(other, {}, [])


@pytest.mark.parametrize("agnostic", [False, True])
def test_candidates_are_the_boxes_above_the_threshold(agnostic: bool) -> None:
    boxes = torch.rand(5, 4 if agnostic else 12) * 60 - 5
    boxes[:, 2:4] += 60
    scores = torch.rand(5, 4)
    chosen = choose_candidates(boxes, scores, (40, 50), 0.4)
    expected = []
    for row in range(5):
        for label in range(3):
            if scores[row, label] > 0.4:
                first = 0 if agnostic else 4 * label
                x0, y0, x1, y1 = boxes[row, first : first + 4].tolist()
                clipped = [min(max(x, 0.0), 50.0) for x in (x0, x1)]
                rows = [min(max(y, 0.0), 40.0) for y in (y0, y1)]
                box = [clipped[0], rows[0], clipped[1], rows[1]]
                expected.append((label, scores[row, label].item(), box))
    labels, values, clipped_boxes = zip(*expected)
    assert chosen.pred_classes.tolist() == list(labels)
    assert chosen.scores.tolist() == list(values)
    torch.testing.assert_close(chosen.pred_boxes.tensor, torch.tensor(clipped_boxes))
    assert chosen.image_size == (40, 50)
