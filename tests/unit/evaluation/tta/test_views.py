"""What is found in views is where it was in the image."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances

from panet.evaluation.tta.views import (
    batches_of_like_size,
    build_view_mapper,
    map_back,
    transform_proposals,
)
from panet.utils.errors import UserError

IMAGE = {"image": torch.zeros(3, 60, 80, dtype=torch.uint8), "height": 60, "width": 80}


@pytest.fixture
def cfg(tiny_cfg: CfgNode) -> CfgNode:
    tiny_cfg.TEST.AUG.ENABLED = True
    tiny_cfg.TEST.AUG.MIN_SIZES, tiny_cfg.TEST.AUG.MAX_SIZE = (30, 60, 90), 120
    return tiny_cfg


def test_proposals_come_along_and_detections_back(cfg: CfgNode) -> None:
    proposals = Instances((60, 80))
    proposals.proposal_boxes = Boxes(torch.tensor([[8.0, 6.0, 40.0, 30.0]]))
    proposals.objectness_logits = torch.tensor([2.0])
    views = build_view_mapper(cfg)({**IMAGE, "proposals": proposals})
    sizes = [(30, 40), (30, 40), (60, 80), (60, 80), (90, 120), (90, 120)]
    assert [tuple(view["image"].shape[1:]) for view in views] == sizes
    for number, view in enumerate(views):
        transform_proposals(view)
        (height, width), moved = sizes[number], view["proposals"]
        assert moved.image_size == (height, width)
        assert moved.objectness_logits.tolist() == [2.0]
        scale, flipped = height / 60, number % 2 == 1
        x0, x1 = (width - 40 * scale, width - 8 * scale) if flipped else (8 * scale, 40 * scale)
        expected = torch.tensor([[x0, 6 * scale, x1, 30 * scale]])
        torch.testing.assert_close(moved.proposal_boxes.tensor, expected)

        mask = torch.rand(1, 1, 4, 4)
        found = Instances((height, width), pred_boxes=moved.proposal_boxes, pred_masks=mask)
        back = map_back(found, view["transforms"], (60, 80), (120, 240))
        assert back.image_size == (120, 240)
        torch.testing.assert_close(back.pred_boxes.tensor, torch.tensor([[24.0, 12, 120, 60]]))
        assert torch.equal(back.pred_masks, mask.flip(3) if flipped else mask)
    assert proposals.proposal_boxes.tensor[0].tolist() == [8, 6, 40, 30], "the image's own moved"


def test_boxes_that_leave_the_image_are_dropped(cfg: CfgNode) -> None:
    (view, *_) = build_view_mapper(cfg)(IMAGE)
    outside = Boxes(torch.tensor([[50.0, 5.0, 60.0, 9.0], [30.0, 5.0, 60.0, 9.0]]))
    found = map_back(
        Instances((30, 40), pred_boxes=outside), view["transforms"], (60, 80), (60, 80)
    )
    assert found.pred_boxes.tensor.tolist() == [[60, 10, 80, 18]]


def test_only_neighbours_of_like_size_share_a_batch() -> None:
    views = [{"image": torch.zeros(3, size, 8)} for size in (4, 4, 4, 6, 4)]
    batches = [[len(view["image"][0]) for view in b] for b in batches_of_like_size(views, 2)]
    assert batches == [[4, 4], [4], [6], [4]]


def test_views_by_scale_have_sizes_of_their_image(cfg: CfgNode) -> None:
    cfg.TEST.AUG.SCALES, cfg.TEST.AUG.FLIP = (0.5, 1.5, 2.0), False
    small = {"image": torch.zeros(3, 20, 32, dtype=torch.uint8), "height": 20, "width": 32}
    sizes = [
        [tuple(view["image"].shape[1:]) for view in build_view_mapper(cfg)(image)]
        for image in (IMAGE, small)
    ]
    limited = (90, 120)  # by MAX_SIZE
    assert sizes == [[(30, 40), (90, 120), limited], [(10, 16), (30, 48), (40, 64)]]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("AUG.SCALES", (1.0, 0)),
        ("AUG.MIN_SIZES", ()),
        ("AUG.MIN_SIZES", (30, 0)),
        ("AUG.MAX_SIZE", 0),
        ("AUG.BATCH_SIZE", 0),
        ("BOX_VOTING.IOU", 1.5),
        ("BOX_VOTING.IOU", -0.5),
        ("MASK_VOTING.IOU", 1.5),
        ("MASK_VOTING.IOU", float("nan")),
    ],
)
def test_values_out_of_range_are_refused(cfg: CfgNode, key: str, value: object) -> None:
    cfg.TEST.BOX_VOTING.ENABLED = cfg.TEST.MASK_VOTING.ENABLED = True
    cfg.merge_from_list([f"TEST.{key}", value])
    with pytest.raises(UserError, match=rf"^TEST\.{key} is .*must be .*\.$"):
        build_view_mapper(cfg)


def test_voting_is_checked_without_views(cfg: CfgNode) -> None:
    cfg.TEST.AUG.ENABLED, cfg.TEST.BOX_VOTING.ENABLED = False, True
    cfg.TEST.BOX_VOTING.IOU = 80.0
    with pytest.raises(UserError, match=r"TEST\.BOX_VOTING\.IOU is 80"):
        build_view_mapper(cfg)
