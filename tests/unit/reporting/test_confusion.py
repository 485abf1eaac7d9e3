"""The confusion matrix, against a plain computation."""

import dataclasses

import numpy as np
import pytest
from detectron2.config import CfgNode
from plain_matching import match
from small_runs import with_crowds, write_run

from panet.reporting.confusion import Confusion, compare
from panet.reporting.detections import Detections, read_detections


@pytest.fixture
def detections(tiny_cfg: CfgNode) -> Detections:
    """With crowds."""
    read = read_detections(write_run(tiny_cfg), tiny_cfg)
    return dataclasses.replace(read, content=with_crowds(read.content))


def plain_counts(detections: Detections, min_score: float, min_iou: float) -> np.ndarray:
    index = {category: i for i, category in enumerate(detections.categories)}
    nothing = len(index)
    counts = np.zeros((nothing + 1, nothing + 1), int)
    confident = [item for item in detections.predictions if item["score"] >= min_score]
    objects = detections.content["annotations"]
    pairs = match(objects, confident, min_iou)
    for prediction, found in pairs:
        if found is None:
            counts[nothing, index[prediction["category_id"]]] += 1
        elif not found.get("iscrowd", 0):
            counts[index[found["category_id"]], index[prediction["category_id"]]] += 1
    seen = [found["id"] for _, found in pairs if found is not None]
    for item in objects:
        if item["id"] not in seen and not item.get("iscrowd", 0):
            counts[index[item["category_id"]], nothing] += 1
    return counts


@pytest.mark.parametrize(("min_score", "min_iou"), [(0.5, 0.5), (0.0, 0.75), (0.8, 0.3)])
def test_counts_are_those_of_a_plain_computation(
    detections: Detections, min_score: float, min_iou: float
) -> None:
    confusion = compare(detections, min_score, min_iou)
    assert confusion.counts.tolist() == plain_counts(detections, min_score, min_iou).tolist()
    assert confusion.classes == ("disk", "square", "triangle", "star")
    assert (confusion.counts.sum(axis=0)[:4] > 0).all()
    assert confusion.counts[:4, :4].trace() > 0


def test_mistakes_are_what_is_off_the_diagonal_in_order(detections: Detections) -> None:
    confusion = compare(detections, 0.3, 0.5)
    right = confusion.counts.trace()
    assert len(confusion.false_negatives) == confusion.counts[:4].sum() - right
    assert len(confusion.false_positives) == confusion.counts[:, :4].sum() - right
    areas = [pair.object["area"] for pair in confusion.false_negatives if pair.object]
    assert len(areas) == len(confusion.false_negatives)
    assert areas == sorted(areas, reverse=True)
    scores = [pair.prediction["score"] for pair in confusion.false_positives if pair.prediction]
    assert len(scores) == len(confusion.false_positives)
    assert scores == sorted(scores, reverse=True)
    for there, predicted in (*confusion.false_negatives, *confusion.false_positives):
        if there and predicted:
            assert there["category_id"] != predicted["category_id"]
            assert there["image_id"] == predicted["image_id"]


def test_without_confident_predictions_all_is_missed(detections: Detections) -> None:
    confusion: Confusion = compare(detections, 1.0, 0.5)
    single = [item for item in detections.content["annotations"] if not item["iscrowd"]]
    assert confusion.counts[:, 4].sum() == confusion.counts.sum() == len(single)
