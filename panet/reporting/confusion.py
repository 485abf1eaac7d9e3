"""Confusion matrix, false negatives and false positives."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from faster_coco_eval import COCO, COCOeval_faster

from .detections import Detections


class Mistake(NamedTuple):
    """An object and the prediction matched to it, in COCO's format; None if unmatched."""

    object: dict[str, Any] | None
    prediction: dict[str, Any] | None


@dataclass(frozen=True)
class Confusion:
    """Comparison of objects with confident predictions.

    Attributes:
        classes: names of the C classes.
        counts: (C + 1, C + 1), rows are ground truth, columns are predictions. The last row counts
            predictions without an object, the last column objects without a prediction.
        false_negatives: objects without a prediction of their class, by descending area.
        false_positives: predictions without an object of their class, by descending score.
    """

    classes: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    false_negatives: list[Mistake]
    false_positives: list[Mistake]


def compare(detections: Detections, min_score: float, min_iou: float) -> Confusion:
    """Match predictions and objects by their boxes, ignoring classes.

    As in COCO's evaluation, predictions are matched by descending score, each with the unmatched
    object that it overlaps most. Crowd objects and predictions matched to them are not counted.

    Args:
        detections: ground truth and predictions of a run.
        min_score: minimum score of the predictions to count.
        min_iou: minimum intersection over union of matching boxes.
    """
    names = detections.categories
    index = {category: i for i, category in enumerate(names)}
    counts = np.zeros((len(names) + 1, len(names) + 1), np.int64)
    mistakes = []
    for pair in _pairs(detections, min_score, min_iou):
        row, column = (index[item["category_id"]] if item else len(names) for item in pair)
        counts[row, column] += 1
        if row != column:
            mistakes.append(pair)
    false_negatives = [pair for pair in mistakes if pair.object is not None]
    false_positives = [pair for pair in mistakes if pair.prediction is not None]
    return Confusion(
        tuple(names.values()),
        counts,
        sorted(false_negatives, key=lambda pair: -pair.object["area"]),  # type: ignore[index]
        sorted(false_positives, key=lambda pair: -pair.prediction["score"]),  # type: ignore[index]
    )


def _pairs(detections: Detections, min_score: float, min_iou: float) -> Iterator[Mistake]:
    """Yield every object and every confident prediction once, matching ones together."""
    objects = {item["id"]: item for item in detections.content["annotations"]}
    # loadRes numbers predictions from 1 in this order.
    predictions = [dict(item) for item in detections.predictions if item["score"] >= min_score]
    match = _match(detections.content, predictions, min_iou)
    for prediction_id, prediction in enumerate(predictions, 1):
        matched = objects[match[prediction_id]] if prediction_id in match else None
        if matched is None or not matched.get("iscrowd", 0):
            yield Mistake(matched, prediction)
    for object_id in objects.keys() - match.values():
        if not objects[object_id].get("iscrowd", 0):
            yield Mistake(objects[object_id], None)


def _match(
    content: dict[str, Any], predictions: list[dict[str, Any]], min_iou: float
) -> dict[int, int]:
    """Map prediction ids to the ids of the matched objects."""
    truth = COCO(content)
    evaluation = COCOeval_faster(truth, truth.loadRes(predictions), "bbox")
    evaluation.params.useCats = 0
    evaluation.params.iouThrs = np.array([min_iou])
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.params.maxDets = [max(len(predictions), 1)]
    evaluation.evaluate()
    evaluation.accumulate()
    pairs = (key.split("_") for key in evaluation.eval["matched"])
    return {int(prediction_id): int(object_id) for prediction_id, object_id in pairs}
