"""COCO's metrics of a run, and the curves that they summarize."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from faster_coco_eval import COCO, COCOeval_faster

from panet.evaluation.coco_evaluation import COCO_MAX_DETECTIONS

from .detections import Detections

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
CURVE_IOUS = (0.5, 0.75)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Accuracy:
    """How well boxes or masks are predicted. What no object is there for is NaN.

    Attributes:
        metrics: those of :data:`METRICS`, in percent.
        class_ap: (C,), the AP of each class, in percent.
        recall: (101,), from 0 to 1.
        precision: for each of :data:`CURVE_IOUS` (C, 101), from 0 to 1: the highest precision of
            each class at this recall or a higher one.
    """

    metrics: dict[str, float]
    class_ap: Floats
    recall: Floats
    precision: dict[float, Floats]


def measure(detections: Detections, task: Literal["bbox", "segm"]) -> Accuracy:
    """COCO's metrics of boxes or masks.

    Of each image they count the 100 predictions that they are defined for, or all of a run that has
    more, as :func:`panet.evaluation.build_evaluator` does.
    """
    predictions = [dict(item) for item in detections.predictions]
    if task == "segm":
        for item in predictions:
            del item["bbox"]  # or it would decide what counts as small and large
    evaluation = _evaluate(detections.content, predictions, task)
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # thresholds, recalls, classes
    precision = np.where(precision < 0, np.nan, precision)
    ious = np.round(evaluation.params.iouThrs, 2).tolist()
    stats = evaluation.stats[: len(METRICS)]
    return Accuracy(
        metrics={name: float(100 * x) if x >= 0 else np.nan for name, x in zip(METRICS, stats)},
        class_ap=100 * precision.mean(axis=(0, 1)),
        recall=np.asarray(evaluation.params.recThrs),
        precision={iou: precision[ious.index(iou)].T for iou in CURVE_IOUS},
    )


def _evaluate(
    content: dict[str, Any], predictions: list[dict[str, Any]], task: str
) -> COCOeval_faster:
    truth = COCO(content)
    evaluation = COCOeval_faster(truth, truth.loadRes(predictions), task, print_function=_silent)
    counts = Counter(item["image_id"] for item in predictions)
    evaluation.params.maxDets = [1, 10, max([COCO_MAX_DETECTIONS, *counts.values()])]
    evaluation.run()
    return evaluation


def _silent(*_: object) -> None:
    """In place of printing."""
