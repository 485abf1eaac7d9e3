"""Views and models merged, against detectron2's single model and against its parts by hand."""

import copy
import pickle
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import read_image
from detectron2.layers import batched_nms
from detectron2.modeling import build_model
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from small_models import find_much
from torch import nn

from panet.engine import PANetTrainer
from panet.evaluation.tta import RCNNEnsemble, add_tta
from panet.evaluation.tta.views import ViewMapper, build_view_mapper
from panet.evaluation.tta.voting import vote_boxes, vote_masks
from panet.utils.errors import UserError


@pytest.fixture
def cfg(tiny_cfg: CfgNode) -> CfgNode:
    tiny_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.05
    tiny_cfg.TEST.DETECTIONS_PER_IMAGE = 10
    tiny_cfg.TEST.AUG.MIN_SIZES = (64, 96)
    tiny_cfg.TEST.AUG.MAX_SIZE = 128
    return tiny_cfg


def build(cfg: CfgNode, seed: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return find_much(build_model(cfg)).eval()


def images(cfg: CfgNode, count: int = 2) -> list[dict[str, Any]]:
    loader = PANetTrainer.build_test_loader(cfg, cfg.DATASETS.TEST[0])
    return [batch[0] for batch, _ in zip(loader, range(count))]


@torch.no_grad()
def run(model: nn.Module, inputs: list[dict[str, Any]]) -> list[Instances]:
    # One by one, as products over batches of another size are rounded in another way.
    return [model([copy.deepcopy(image)])[0]["instances"] for image in inputs]


def assert_equal(a: Instances, b: Instances, atol: float = 0.0) -> None:
    assert len(a) == len(b) > 0
    assert a.image_size == b.image_size
    torch.testing.assert_close(a.pred_boxes.tensor, b.pred_boxes.tensor, atol=atol, rtol=0)
    torch.testing.assert_close(a.scores, b.scores, atol=atol, rtol=0)
    assert torch.equal(a.pred_classes, b.pred_classes)
    assert (a.pred_masks != b.pred_masks).float().mean() <= atol


@pytest.mark.parametrize("trick", ["", "BOX_VOTING"])
def test_one_model_on_the_image_itself_is_the_model(cfg: CfgNode, trick: str) -> None:
    model, inputs = build(cfg), images(cfg)
    if trick:  # in which a box has no voters but itself
        cfg.TEST.BOX_VOTING.ENABLED, cfg.TEST.BOX_VOTING.IOU = True, 1.0
    for ours, theirs in zip(run(RCNNEnsemble(cfg, [model]), inputs), run(model, inputs)):
        assert_equal(ours, theirs, atol=1e-4 if trick else 0.0)


def test_what_overlaps_in_a_single_view_does_not_vote_on_masks(cfg: CfgNode) -> None:
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 0.95
    model, inputs = build(cfg), images(cfg)
    for ours, theirs in zip(run(RCNNEnsemble(cfg, [model]), inputs), run(model, inputs)):
        assert_equal(ours, theirs)


def test_one_view_of_the_usual_size_is_plain_inference(cfg: CfgNode) -> None:
    model = build(cfg)
    expected = run(model, images(cfg))
    cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.FLIP = True, False
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE = (96,), cfg.INPUT.MAX_SIZE_TEST
    assert images(cfg)[0]["image"].shape == (3, 256, 256), "the loader has resized it already"
    for ours, theirs in zip(run(add_tta(cfg, model), images(cfg)), expected):
        assert_equal(ours, theirs, atol=1e-3)


def test_windows_are_the_model_on_each_part_for_what_is_in_its_core(cfg: CfgNode) -> None:
    cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.FLIP, cfg.TEST.AUG.SCALES = True, False, (1.0,)
    cfg.TEST.AUG.WINDOW, cfg.TEST.AUG.OVERLAP, cfg.TEST.AUG.BATCH_SIZE = 160, 64, 1
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = cfg.TEST.DETECTIONS_PER_IMAGE = 200
    cfg.TEST.AUG.MAX_SIZE = 160
    model, (image,) = build(cfg), images(cfg, 1)
    (found,) = run(RCNNEnsemble(cfg, [model]), [image])
    boxes, scores, classes = [], [], []
    for top, left in product((0, 96), repeat=2):
        part = image["image"][:, top : top + 160, left : left + 160]
        (seen,) = run(model, [{"image": part, "height": 160, "width": 160}])
        moved = seen.pred_boxes.tensor + torch.tensor([left, top, left, top])
        centers = (moved[:, :2] + moved[:, 2:]) / 2
        own = ((centers >= 128) == torch.tensor([left > 0, top > 0])).all(1)
        assert not own.all()
        boxes.append(moved[own])
        scores.append(seen.scores[own])
        classes.append(seen.pred_classes[own])
    assert all(map(len, boxes))
    parts = torch.cat(boxes), torch.cat(scores), torch.cat(classes)
    kept = batched_nms(*parts, cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST)[:200]
    torch.testing.assert_close(found.pred_boxes.tensor, parts[0][kept], atol=1e-3, rtol=0)
    torch.testing.assert_close(found.scores, parts[1][kept], atol=1e-4, rtol=0)
    assert torch.equal(found.pred_classes, parts[2][kept])


def test_a_window_larger_than_the_image_is_the_image(cfg: CfgNode) -> None:
    cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.SCALES = True, (1.0,)
    model, inputs = build(cfg), images(cfg)
    expected = run(RCNNEnsemble(cfg, [model]), inputs)
    cfg.TEST.AUG.WINDOW = 300
    for ours, theirs in zip(run(RCNNEnsemble(cfg, [model]), inputs), expected):
        assert_equal(ours, theirs)


def test_a_member_twice_is_the_member(cfg: CfgNode) -> None:
    model, inputs = build(cfg), images(cfg)
    for ours, theirs in zip(run(RCNNEnsemble(cfg, [model, model]), inputs), run(model, inputs)):
        assert_equal(ours, theirs, atol=1e-4)


def test_views_are_merged_by_nms_and_voting(cfg: CfgNode) -> None:
    cfg.TEST.AUG.ENABLED = cfg.TEST.BOX_VOTING.ENABLED = True
    cfg.TEST.BOX_VOTING.IOU = 0.6
    model = build(cfg)
    (record,) = DatasetCatalog.get(cfg.DATASETS.TEST[0])[:1]
    tester = RCNNEnsemble(cfg, [model])
    (found,) = run(tester, [{"file_name": record["file_name"]}])

    # By hand: each view alone, by detectron2's model, and mapped back.
    image = torch.as_tensor(read_image(record["file_name"], "BGR").transpose(2, 0, 1).copy())
    inputs = {"image": image, "height": 256, "width": 256}
    detections, candidates = [], []
    for view in tester.tta_mapper(inputs):
        transforms = view.pop("transforms")
        for kept, threshold, limit in ((detections, 0.5, 10), (candidates, 1.0, -1)):
            predictor = model.roi_heads.box_predictor
            predictor.test_nms_thresh, predictor.test_topk_per_image = threshold, limit
            with torch.no_grad():
                (alone,) = model.inference([view], do_postprocess=False)
            boxes = transforms.inverse().apply_box(alone.pred_boxes.tensor.numpy())
            moved = Instances((256, 256), **alone.get_fields())
            moved.pred_boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32))
            if len(transforms.transforms) > 2:
                moved.pred_masks = moved.pred_masks.flip(3)
            kept.append(moved)
    assert len(detections) == 4
    everything = Instances.cat(detections)
    order = batched_nms(
        everything.pred_boxes.tensor, everything.scores, everything.pred_classes, 0.5
    )[:10]
    expected = everything[order]
    assert len(expected) > 3
    masks = vote_masks(expected, everything, 0.5)
    assert not torch.equal(masks, vote_masks(expected, expected, 0.5)), "nothing was voted on"
    voted = vote_boxes(expected, Instances.cat(candidates), 0.6)
    assert (voted - expected.pred_boxes.tensor).abs().max() > 0.1, "nothing was voted on"
    expected.pred_boxes, expected.pred_masks = Boxes(voted), masks
    assert_equal(found, expected, atol=1e-3)


def test_each_trick_changes_the_result_and_no_other_key_does(cfg: CfgNode) -> None:
    model = build(cfg)
    assert add_tta(cfg, model) is model
    cfg.TEST.AUG.ENABLED = True
    inputs = images(cfg, 1)
    (base,) = run(add_tta(cfg, model), inputs)
    for key, value, changes in (
        ("TEST.AUG.FLIP", False, "everything"),
        ("TEST.AUG.MIN_SIZES", (96,), "everything"),
        ("TEST.BOX_VOTING.ENABLED", True, "boxes"),
        ("TEST.MASK_VOTING.ENABLED", False, "masks"),
        ("TEST.TIGHTEN_BOXES", True, "boxes"),
        ("TEST.AUG.BATCH_SIZE", 1, ""),
    ):
        changed = cfg.clone()
        changed.merge_from_list([key, value])
        (other,) = run(add_tta(changed, model), inputs)
        if changes == "everything":
            assert not torch.equal(other.scores, base.scores), key
            continue
        torch.testing.assert_close(other.scores, base.scores, atol=1e-4, rtol=0)
        moved = (other.pred_boxes.tensor - base.pred_boxes.tensor).abs().max() > 0.01
        assert moved == (changes == "boxes"), key
        redrawn = (other.pred_masks != base.pred_masks).float().mean() > 1e-3
        assert redrawn == (changes == "masks"), key


def test_members_are_averaged_on_the_proposals_of_one(cfg: CfgNode) -> None:
    first, second = build(cfg, 3), build(cfg, 4)
    ensemble, (image,) = RCNNEnsemble(cfg, [first, second], proposals_from=1), images(cfg, 1)
    (found,) = run(ensemble, [image])

    # By hand: detectron2's own passes with the second one's proposals.
    with torch.no_grad():
        batch = [second.preprocess_image([image]), first.preprocess_image([image])]
        maps = [second.backbone(batch[0].tensor), first.backbone(batch[1].tensor)]
        proposals, _ = second.proposal_generator(batch[0], maps[0], None)
        boxes, scores = [], []
        for model, features in zip((second, first), maps):
            heads = model.roi_heads
            pooled = heads.box_pooler(
                [features[f] for f in heads.box_in_features], [proposals[0].proposal_boxes]
            )
            predictions = heads.box_predictor(heads.box_head(pooled))
            boxes += heads.box_predictor.predict_boxes(predictions, proposals)
            scores += heads.box_predictor.predict_probs(predictions, proposals)
        mean_scores = (scores[0] + scores[1])[:, :-1] / 2
        mean_boxes = ((boxes[0] + boxes[1]) / 2).view(len(mean_scores), -1, 4)
        rows, labels = (mean_scores > 0.05).nonzero(as_tuple=True)
        detected = Boxes(mean_boxes[rows, labels])
        detected.clip(proposals[0].image_size)
        order = batched_nms(detected.tensor, mean_scores[rows, labels], labels, 0.5)[:10]
        boxes, classes = detected[order], labels[order]
        masks = []
        for model, features in zip((second, first), maps):
            given = Instances(proposals[0].image_size, pred_boxes=boxes, pred_classes=classes)
            masks.append(model.roi_heads.forward_with_given_boxes(features, [given])[0].pred_masks)
    assert not torch.equal(*masks)
    expected = Instances(proposals[0].image_size)
    expected.pred_boxes, expected.pred_classes = boxes, classes
    expected.scores = mean_scores[rows, labels][order]
    expected.pred_masks = (masks[0] + masks[1]) / 2
    assert_equal(found, detector_postprocess(expected, 256, 256), atol=1e-4)


def test_members_may_read_other_channel_orders_and_have_no_masks(cfg: CfgNode) -> None:
    model, (image,) = build(cfg), images(cfg, 1)
    other = copy.deepcopy(model)
    other.input_format = "RGB"
    conv = other.backbone.bottom_up.stem.conv1
    conv.weight.data = conv.weight.data.flip(1)
    other.pixel_mean, other.pixel_std = other.pixel_mean.flip(0), other.pixel_std.flip(0)
    other.roi_heads.mask_on = False
    (found,), (expected,) = run(RCNNEnsemble(cfg, [model, other]), [image]), run(model, [image])
    assert_equal(found, expected, atol=1e-4)


def test_boxes_of_one_for_all_classes_join_those_of_each(cfg: CfgNode) -> None:
    model, (image,) = build(cfg), images(cfg, 1)
    agnostic = copy.deepcopy(model)
    for parameter in model.roi_heads.box_predictor.bbox_pred.parameters():
        rows = parameter.data.view(4, 4, -1)  # classes, coordinates
        rows.copy_(rows[:1].expand_as(rows).clone())
    own, theirs = (m.roi_heads.box_predictor.bbox_pred for m in (model, agnostic))
    theirs.weight.data, theirs.bias.data = own.weight.data[:4], own.bias.data[:4]
    (found,), (expected,) = run(RCNNEnsemble(cfg, [model, agnostic]), [image]), run(model, [image])
    assert_equal(found, expected, atol=1e-4)


def test_cascades_take_part(cfg: CfgNode) -> None:
    cfg.MODEL.ROI_HEADS.NAME = "CascadePANetROIHeads"
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    model = build_model(cfg).eval()
    for predictor in model.roi_heads.box_predictor:
        nn.init.normal_(predictor.cls_score.weight, std=0.05)
        nn.init.normal_(predictor.bbox_pred.weight, std=0.5)  # some leave the image
    inputs = images(cfg)
    for ours, theirs in zip(run(RCNNEnsemble(cfg, [model]), inputs), run(model, inputs)):
        assert_equal(ours, theirs)


def test_proposals_from_a_file_are_augmented(cfg: CfgNode, tmp_path: Path) -> None:
    model = build(cfg)
    content: dict[str, list[Any]] = {"ids": [], "boxes": [], "objectness_logits": []}
    for record in DatasetCatalog.get(cfg.DATASETS.TEST[0]):
        boxes = np.array([item["bbox"] for item in record["annotations"]])
        boxes[:, 2:] += boxes[:, :2]
        content["ids"].append(record["image_id"])
        content["boxes"].append(boxes)
        content["objectness_logits"].append(np.zeros(len(boxes)))
    file = tmp_path / "proposals.pkl"
    file.write_bytes(pickle.dumps(content))
    cfg.MODEL.LOAD_PROPOSALS = cfg.TEST.AUG.ENABLED = True
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    cfg.DATASETS.PROPOSAL_FILES_TEST = (str(file),)
    model.proposal_generator = None
    tester = RCNNEnsemble(cfg, [model], tta_mapper=only_the_mirror_image(cfg))
    (image,) = images(cfg, 1)
    (found,) = run(tester, [image])
    mirrored = {**image, "image": image["image"].flip(2), "proposals": image["proposals"]}
    boxes = image["proposals"].proposal_boxes.tensor.clone()
    boxes[:, [0, 2]] = 256 - boxes[:, [2, 0]]
    mirrored["proposals"].proposal_boxes = Boxes(boxes)
    (expected,) = run(model, [mirrored])
    boxes = expected.pred_boxes.tensor.clone()
    boxes[:, [0, 2]] = 256 - boxes[:, [2, 0]]
    expected.pred_boxes, expected.pred_masks = Boxes(boxes), expected.pred_masks.flip(2)
    assert_equal(found, expected, atol=1e-3)


def only_the_mirror_image(cfg: CfgNode) -> ViewMapper:
    cfg.TEST.AUG.MIN_SIZES = (256,)
    cfg.TEST.AUG.MAX_SIZE = 256
    return lambda image: build_view_mapper(cfg)(image)[1:]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["TEST.AUG.BATCH_SIZE", 0], r"TEST.AUG.BATCH_SIZE is 0; it must be at least 1"),
        (["TEST.MASK_VOTING.IOU", 1.5], r"TEST.MASK_VOTING.IOU is 1.5; it must be from 0 to 1"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", 7], r"NUM_CLASSES is 7, but .* has 4 classes"),
        (["MODEL.KEYPOINT_ON", True], r"MODEL.KEYPOINT_ON is True"),
    ],
)
def test_wrong_keys(cfg: CfgNode, overrides: list[Any], message: str) -> None:
    model = build(cfg)
    cfg.merge_from_list(overrides)
    with pytest.raises(UserError, match=message):
        RCNNEnsemble(cfg, [model, model])


def test_models_that_cannot_be_merged(cfg: CfgNode) -> None:
    model = build(cfg)
    with pytest.raises(UserError, match="PROPOSALS_FROM is 2; it must be .* of the 2 models"):
        RCNNEnsemble(cfg, [model, model], proposals_from=2)
    cfg.TEST.TIGHTEN_BOXES = True
    with pytest.raises(UserError, match="MODEL.META_ARCHITECTURE GeneralizedRCNN, .* a Linear;"):
        add_tta(cfg, nn.Linear(1, 1))
    without_masks = copy.deepcopy(model)
    without_masks.roi_heads.mask_on = False
    with pytest.raises(UserError, match="TIGHTEN_BOXES is True, but the model has no masks"):
        add_tta(cfg, without_masks)
    without_rpn = copy.deepcopy(model)
    without_rpn.proposal_generator = None
    with pytest.raises(UserError, match="Model 0, .* has no RPN"):
        add_tta(cfg, without_rpn)
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 7
    coarse = build(cfg)
    with pytest.raises(UserError, match="masks of different sizes"):
        run(RCNNEnsemble(cfg, [model, coarse]), images(cfg, 1))
