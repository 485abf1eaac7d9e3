"""COCO's metrics and curves, against pycocotools and a plain computation."""

from typing import Literal

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from plain_matching import match
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from small_runs import ground_truth, predict, write_run

from panet.reporting.accuracy import METRICS, measure
from panet.reporting.detections import Detections, read_detections


@pytest.fixture
def detections(tiny_cfg: CfgNode) -> Detections:
    return read_detections(write_run(tiny_cfg), tiny_cfg)


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_metrics_are_those_of_pycocotools(
    detections: Detections, tiny_cfg: CfgNode, task: Literal["bbox", "segm"]
) -> None:
    ours = measure(detections, task)
    truth = COCO(MetadataCatalog.get(detections.dataset).json_file)
    predictions = predict(ground_truth(tiny_cfg))
    if task == "segm":
        for item in predictions:
            del item["bbox"]  # as detectron2's evaluator does
    official = COCOeval(truth, truth.loadRes(predictions), task)
    official.evaluate()
    official.accumulate()
    official.summarize()
    expected = np.where(official.stats[:6] < 0, np.nan, 100 * official.stats[:6])
    assert 2 < expected[0] < 95
    assert list(ours.metrics) == list(METRICS)
    assert list(ours.metrics.values()) == pytest.approx(expected.tolist(), nan_ok=True)
    assert ours.class_ap.mean() == pytest.approx(expected[0])


@pytest.mark.parametrize("iou", [0.5, 0.75])
def test_curves_are_those_of_a_plain_computation(detections: Detections, iou: float) -> None:
    precision = measure(detections, "bbox").precision[iou]
    assert len(detections.categories) == len(precision) == 4
    for category, curve in zip(detections.categories, precision):
        objects, predictions = (
            [item for item in items if item["category_id"] == category]
            for items in (detections.content["annotations"], detections.predictions)
        )
        points = []
        right = 0
        for number, (_, found) in enumerate(match(objects, predictions, iou), 1):
            right += found is not None
            points.append((right / len(objects), right / number))
        for i, recall in enumerate(np.linspace(0, 1, 101)):
            reached = [p for r, p in points if r >= recall - 1e-12]
            assert curve[i] == pytest.approx(max(reached, default=0.0))


def test_a_class_without_objects_has_no_figures(detections: Detections) -> None:
    detections.content["categories"].append({"id": 9, "name": "hexagon"})
    accuracy = measure(detections, "bbox")
    assert np.isnan(accuracy.class_ap).tolist() == [False] * 4 + [True]
    assert np.isnan(accuracy.precision[0.5][4]).all()
    assert accuracy.metrics["AP"] == pytest.approx(accuracy.class_ap[:4].mean())


def test_without_predictions_the_metrics_are_zero(detections: Detections) -> None:
    detections.predictions.clear()
    assert measure(detections, "segm").metrics["AP"] == 0
