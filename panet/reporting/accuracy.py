"""COCO's metrics of a run and the underlying precision-recall curves."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

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
    """Accuracy of boxes or masks. Values without any ground-truth object are NaN.

    Attributes:
        metrics: value of each of :data:`METRICS`, in percent.
        class_ap: (C,), AP of each class, in percent.
        recall: (101,), recall thresholds from 0 to 1.
        precision: for each of :data:`CURVE_IOUS`, (C, 101), from 0 to 1: highest precision of
            each class at this recall or a higher one.
    """

    metrics: dict[str, float]
    class_ap: Floats
    recall: Floats
    precision: dict[float, Floats]


def measure(detections: Detections, task: Literal["bbox", "segm"]) -> Accuracy:
    """Compute COCO's metrics of boxes or masks.

    They count the standard 100 predictions per image, or all of a run with more, as the evaluator
    of :func:`panet.evaluation.build_evaluator` does.
    """
    predictions = [dict(item) for item in detections.predictions]
    if task == "segm":
        for item in predictions:
            del item["bbox"]  # so that the area of the mask decides what is small and large
    truth = COCO(detections.content)
    results = truth.loadRes(predictions)
    evaluation = COCOeval_faster(truth, results, task, print_function=lambda *_: None)
    counts = Counter(item["image_id"] for item in predictions)
    evaluation.params.maxDets = [1, 10, max([COCO_MAX_DETECTIONS, *counts.values()])]
    evaluation.run()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (thresholds, recalls, classes)
    precision = np.where(precision < 0, np.nan, precision)
    ious = np.round(evaluation.params.iouThrs, 2).tolist()
    stats = evaluation.stats[: len(METRICS)]
    return Accuracy(
        metrics={name: float(100 * x) if x >= 0 else np.nan for name, x in zip(METRICS, stats)},
        class_ap=100 * precision.mean(axis=(0, 1)),
        recall=np.asarray(evaluation.params.recThrs),
        precision={iou: precision[ious.index(iou)].T for iou in CURVE_IOUS},
    )
