"""Which classes are taken for which, what is missed, and what is seen where nothing is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from faster_coco_eval import COCO, COCOeval_faster

from .detections import Detections


class Mistake(NamedTuple):
    """An object, a prediction, or both where their classes differ, in COCO's format."""

    object: dict[str, Any] | None
    prediction: dict[str, Any] | None


@dataclass(frozen=True)
class Confusion:
    """Objects against confident predictions.

    Attributes:
        classes: names of the C classes.
        counts: (C + 1, C + 1), rows are what is there, columns what is predicted; the last row is
            for predictions where no object is, the last column for objects without a prediction.
        misses: objects that were not found as what they are, large ones first.
        false_alarms: predictions of what is not there, those with high scores first.
    """

    classes: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    misses: list[Mistake]
    false_alarms: list[Mistake]


def compare(detections: Detections, min_score: float, min_iou: float) -> Confusion:
    """Compare predictions with objects by their boxes, whatever their classes.

    Each prediction, those with high scores first, goes to the object that it overlaps most of
    those that are left, as in COCO's evaluation. Objects marked as crowds are not counted, nor are
    predictions within them.

    Args:
        detections: of a run.
        min_score: predictions with lower scores are left out.
        min_iou: intersection over union from which on boxes belong together.
    """
    names = detections.categories
    index = {category: i for i, category in enumerate(names)}
    counts = np.zeros((len(names) + 1, len(names) + 1), np.int64)
    mistakes = []
    for pair in _pairs(detections, min_score, min_iou):
        there, predicted = (
            index[item["category_id"]] if item is not None else len(names) for item in pair
        )
        counts[there, predicted] += 1
        if there != predicted:
            mistakes.append(pair)
    misses = [pair for pair in mistakes if pair.object is not None]
    false_alarms = [pair for pair in mistakes if pair.prediction is not None]
    return Confusion(
        tuple(names.values()),
        counts,
        sorted(misses, key=lambda pair: -pair.object["area"]),  # type: ignore[index]
        sorted(false_alarms, key=lambda pair: -pair.prediction["score"]),  # type: ignore[index]
    )


def _pairs(detections: Detections, min_score: float, min_iou: float) -> Iterator[Mistake]:
    """Every object and every confident prediction once, together where they match."""
    objects = {item["id"]: item for item in detections.content["annotations"]}
    # In the order of the numbers that loadRes gives them.
    predictions = [dict(item) for item in detections.predictions if item["score"] >= min_score]
    match = _match(detections.content, predictions, min_iou)
    for number, prediction in enumerate(predictions, 1):
        found = objects[match[number]] if number in match else None
        if found is None or not found.get("iscrowd", 0):
            yield Mistake(found, prediction)
    for number in objects.keys() - match.values():
        if not objects[number].get("iscrowd", 0):
            yield Mistake(objects[number], None)


def _match(
    content: dict[str, Any], predictions: list[dict[str, Any]], min_iou: float
) -> dict[int, int]:
    """The numbers of the objects that predictions belong to."""
    truth = COCO(content)
    evaluation = COCOeval_faster(truth, truth.loadRes(predictions), "bbox")
    evaluation.params.useCats = 0
    evaluation.params.iouThrs = np.array([min_iou])
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.params.maxDets = [max(len(predictions), 1)]
    evaluation.evaluate()
    evaluation.accumulate()
    pairs = (key.split("_") for key in evaluation.eval["matched"])
    return {int(prediction): int(number) for prediction, number in pairs}
