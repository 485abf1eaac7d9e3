"""Voting against loops over boxes and pixels."""

import numpy as np
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Boxes, Instances

from panet.evaluation.tta.tight_boxes import tighten_boxes
from panet.evaluation.tta.voting import vote_boxes, vote_masks

HEIGHT, WIDTH = 40, 56


def crowd(count: int) -> Instances:
    """Boxes of three classes around three places, so that many overlap."""
    places = torch.tensor([[4.0, 6.0, 24.0, 30.0], [20.0, 8.0, 50.0, 36.0], [6.0, 3.0, 28.0, 26.0]])
    boxes = places[torch.randint(3, (count,))] + torch.randn(count, 4) * 2
    return Instances(
        (HEIGHT, WIDTH),
        pred_boxes=Boxes(boxes),
        scores=torch.rand(count),
        pred_classes=torch.randint(3, (count,)),
        pred_masks=torch.rand(count, 1, 7, 7),
    )


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def voters_of(detections: Instances, voters: Instances, iou: float) -> list[list[int]]:
    return [
        [
            j
            for j in range(len(voters))
            if detections.pred_classes[i] == voters.pred_classes[j]
            and overlap(detections.pred_boxes.tensor[i], voters.pred_boxes.tensor[j]) >= iou
        ]
        for i in range(len(detections))
    ]


@pytest.mark.parametrize("iou", [0.3, 0.7])
def test_boxes_are_the_weighted_mean_of_their_voters(iou: float) -> None:
    detections, candidates = crowd(12), crowd(60)
    detections.pred_classes[5] = 7  # which no candidate has
    voted = vote_boxes(detections, candidates, iou)
    voters = voters_of(detections, candidates, iou)
    assert not voters[5]
    assert max(map(len, voters)) > 2
    for i, ours in enumerate(voters):
        expected = detections.pred_boxes.tensor[i]
        if ours:
            total = sum(candidates.scores[j] for j in ours)
            expected = sum(candidates.scores[j] * candidates.pred_boxes.tensor[j] for j in ours)
            expected = expected / total
        torch.testing.assert_close(voted[i], expected)


def test_masks_are_the_weighted_mean_of_their_voters() -> None:
    voters = crowd(30)
    detections = voters[:8]
    voted = vote_masks(detections, voters, 0.5)
    assert voted.shape == (8, HEIGHT, WIDTH)
    all_voters = voters_of(detections, voters, 0.5)
    assert max(map(len, all_voters)) > 2
    for i, ours in enumerate(all_voters):
        mean = torch.zeros(HEIGHT, WIDTH)
        for j in ours:
            mean += voters.scores[j] * in_image(voters[j])
        mean /= sum(voters.scores[j] for j in ours)
        certain = (mean - 0.5).abs() > 1e-5
        assert torch.equal(voted[i][certain], (mean >= 0.5)[certain])
        assert voted[i].any()


def in_image(voter: Instances) -> torch.Tensor:
    """Bilinear samples of a mask at the centres of the pixels."""
    x0, y0, x1, y1 = voter.pred_boxes.tensor[0].tolist()
    mask = torch.nn.functional.pad(voter.pred_masks[0, 0], (1, 1, 1, 1)).double()
    pixels = torch.zeros(HEIGHT, WIDTH)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            y = (row + 0.5 - y0) / (y1 - y0) * 7 + 0.5
            x = (column + 0.5 - x0) / (x1 - x0) * 7 + 0.5
            if 0 <= y < 8 and 0 <= x < 8:
                i, j = int(y), int(x)
                v, u = y - i, x - j
                pixels[row, column] = (1 - v) * ((1 - u) * mask[i, j] + u * mask[i, j + 1]) + v * (
                    (1 - u) * mask[i + 1, j] + u * mask[i + 1, j + 1]
                )
    return pixels


def test_a_mask_alone_is_pasted_as_detectron2_does() -> None:
    voters = crowd(20)
    voters.pred_classes = torch.arange(20)
    voted = vote_masks(voters, voters, 0.5)
    boxes = voters.pred_boxes.tensor
    expected = paste_masks_in_image(voters.pred_masks[:, 0], boxes, (HEIGHT, WIDTH), 0.5)
    assert torch.equal(voted, expected)


def test_none_vote_on_nothing() -> None:
    nothing = crowd(4)[:0]
    assert vote_boxes(nothing, crowd(5), 0.5).shape == (0, 4)
    assert vote_masks(nothing, nothing, 0.5).shape == (0, HEIGHT, WIDTH)


def test_boxes_are_tightened_to_their_masks() -> None:
    instances = crowd(3)
    before = instances.pred_boxes.tensor.clone()
    masks = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.bool)
    masks[0, 5:9, 11:30] = True
    masks[2, 7, 3] = masks[2, 20, 40] = True
    instances.pred_masks = masks
    tighten_boxes(instances)
    assert instances.pred_boxes.tensor[0].tolist() == [11, 5, 30, 9]
    assert torch.equal(instances.pred_boxes.tensor[1], before[1]), "the box of an empty mask"
    assert instances.pred_boxes.tensor[2].tolist() == [3, 7, 41, 21]
