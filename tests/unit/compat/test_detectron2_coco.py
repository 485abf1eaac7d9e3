"""Whether ``panet.compat.detectron2_coco`` is still needed, and that it reaches the evaluator."""

import inspect
from typing import Any

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import COCOEvaluator, coco_evaluation
from detectron2.structures import Boxes, Instances
from pycocotools.cocoeval import COCOeval

from panet.compat.detectron2_coco import metrics_by


def test_the_evaluator_takes_no_implementation() -> None:
    assert set(inspect.signature(COCOEvaluator).parameters) == {
        *("dataset_name", "tasks", "distributed", "output_dir", "max_dets_per_image"),
        *("use_fast_impl", "kpt_oks_sigmas", "allow_cached_coco"),
    }


# For another limit than 100, detectron2 makes the usual one too.
@pytest.mark.parametrize(("limit", "made"), [(100, 1), (30, 2)])
def test_another_implementation_is_used_meanwhile_only(
    tiny_dataset: str, limit: int, made: int
) -> None:
    used: list[str] = []

    class Recording(COCOeval):
        def __init__(self, truth: Any, found: Any, kind: str) -> None:
            super().__init__(truth, found, kind)
            used.append(kind)

    evaluator = COCOEvaluator(
        tiny_dataset, ("bbox",), max_dets_per_image=limit, use_fast_impl=False
    )
    evaluator.reset()
    record = DatasetCatalog.get(tiny_dataset)[0]
    found = Instances(
        (record["height"], record["width"]),
        pred_boxes=Boxes(torch.tensor([[1.0, 1.0, 9.0, 9.0]])),
        pred_classes=torch.tensor([0]),
        scores=torch.ones(1),
    )
    evaluator.process([record], [{"instances": found}])
    with metrics_by(Recording):
        evaluator.evaluate()
    assert used == ["bbox"] * made
    assert coco_evaluation.COCOeval is COCOeval
    assert issubclass(coco_evaluation.COCOevalMaxDets, COCOeval)
    evaluator.evaluate()
    assert used == ["bbox"] * made
