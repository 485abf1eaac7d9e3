"""Tiles cover an image, and each of its points is in the core of one."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances

from panet.evaluation.tta.tiles import TileTransform, cut_tiles, lay_out_spans
from panet.evaluation.tta.views import (
    build_view_mapper,
    drop_others,
    map_back,
    transform_proposals,
    view_sizes,
)
from panet.utils.errors import UserError

IMAGE = {
    "image": torch.arange(3 * 50 * 70).reshape(3, 50, 70).remainder(251).byte(),
    "height": 50,
    "width": 70,
}


@pytest.mark.parametrize("length", [1, 31, 32, 33, 56, 57, 200, 1388])
@pytest.mark.parametrize("overlap", [0, 8, 31])
def test_spans_are_the_fewest_that_cover_a_side(length: int, overlap: int) -> None:
    spans = lay_out_spans(length, 32, overlap)
    assert spans[0].start == 0
    assert spans[-1].end == length
    assert {span.end - span.start for span in spans} == {min(32, length)}
    assert all(before.end - after.start >= overlap for before, after in pairwise(spans))
    one_less = (len(spans) - 1) * (32 - overlap) + overlap
    assert len(spans) == 1 or one_less < length


def test_cores_meet_in_the_middle_of_overlaps() -> None:
    first, second, third = lay_out_spans(80, 32, 8)
    assert [first.start, second.start, third.start] == [0, 24, 48]
    assert (first.core_start, third.core_end) == (-np.inf, np.inf)
    assert first.core_end == second.core_start == 28
    assert second.core_end == third.core_start == 52


def test_every_box_is_in_one_core() -> None:
    corners = torch.rand(200, 2) * torch.tensor([70.0, 50.0])
    boxes = torch.cat([corners, corners + torch.rand(200, 2) * 20], dim=1)
    cores = torch.stack([cut.in_core(boxes) for cut, _ in cut_tiles(IMAGE, 32, 8)])
    assert len(cores) == 6
    assert (cores.sum(0) == 1).all()
    assert (cores.sum(1) > 0).all()


def test_tiles_are_parts_of_the_image() -> None:
    image = IMAGE["image"].numpy().transpose(1, 2, 0)
    for cut, tile in cut_tiles({**IMAGE, "image_id": 5}, 32, 8):
        expected = cut.apply_image(image).transpose(2, 0, 1)
        assert np.array_equal(tile["image"], expected)
        assert (tile["height"], tile["width"], tile["image_id"]) == (32, 32, 5)


@pytest.fixture
def cfg(tiny_cfg: CfgNode) -> CfgNode:
    tiny_cfg.TEST.AUG.ENABLED = True
    tiny_cfg.TEST.AUG.SCALES = (2.0,)
    tiny_cfg.TEST.AUG.WINDOW, tiny_cfg.TEST.AUG.OVERLAP = 32, 8
    return tiny_cfg


def test_proposals_go_to_tiles_and_detections_come_back_once(cfg: CfgNode) -> None:
    given = torch.tensor([[2.0, 2, 8, 8], [24, 20, 34, 30], [60, 40, 70, 50]])
    proposals = Instances((50, 70), proposal_boxes=Boxes(given), number=torch.arange(3))
    views = build_view_mapper(cfg)({**IMAGE, "proposals": proposals})
    assert {tuple(view["image"].shape[1:]) for view in views} == {(64, 64)}
    assert view_sizes(cfg, 50, 70) == [(64, 64)]
    assert len(views) == 6 * 2  # with their mirror images
    found = []
    for view in views:
        transform_proposals(view)
        inside = view["proposals"]
        assert (inside.proposal_boxes.tensor >= 0).all()
        assert (inside.proposal_boxes.tensor <= 64).all()
        (cut,) = (t for t in view["transforms"].transforms if isinstance(t, TileTransform))
        seen = Instances((64, 64), pred_boxes=inside.proposal_boxes, number=inside.number)
        own = drop_others(seen, view["transforms"])
        back = map_back(own, view["transforms"], (50, 70), (100, 140))
        assert cut.in_core(back.pred_boxes.tensor / 2).all()
        found.append(back)
    numbers = torch.cat([back.number for back in found])
    assert numbers.bincount().tolist() == [2, 2, 2]
    boxes = torch.cat([back.pred_boxes.tensor for back in found])
    torch.testing.assert_close(boxes, 2 * given[numbers])


@pytest.mark.parametrize("tile", [-1, 8, 4])
def test_tiles_must_be_larger_than_their_overlap(cfg: CfgNode, tile: int) -> None:
    cfg.TEST.AUG.WINDOW = tile
    with pytest.raises(UserError, match=r"TEST\.AUG\.WINDOW"):
        build_view_mapper(cfg)
