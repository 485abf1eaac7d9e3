"""Masks are encoded as detectron2 does it, only faster."""

import json
from typing import Any

import detectron2.evaluation
import numpy as np
import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances
from pycocotools import mask as rle

from panet.evaluation.coco_evaluation import COCOEvaluator
from panet.evaluation.run_lengths import encode_masks
from panet.prediction.coco_results import to_detections


def found(count: int, size: tuple[int, int] = (37, 53), seed: int = 0) -> Instances:
    """Instances with masks of coarse random patches."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(count, 1, 7, 5, generator=generator)
    masks = torch.nn.functional.interpolate(noise, size)[:, 0] > 0.5
    corners = 15 * torch.rand(count, 4, generator=generator)
    corners[:, 2:] += corners[:, :2]
    return Instances(
        size,
        pred_boxes=Boxes(corners),
        scores=torch.rand(count, generator=generator),
        pred_classes=torch.arange(count) % 4,
        pred_masks=masks,
    )


def test_encoding_is_that_of_detectron2() -> None:
    instances = found(6)
    instances.pred_masks[0] = False
    instances.pred_masks[1] = True
    encoded = encode_masks(instances.pred_masks.numpy())
    assert encoded == [item["segmentation"] for item in instances_to_coco_json(instances, 1)]
    assert json.loads(json.dumps(encoded)) == encoded
    decoded = rle.decode(encoded).transpose(2, 0, 1)
    np.testing.assert_array_equal(decoded, instances.pred_masks.numpy())


@pytest.mark.parametrize("with_masks", [True, False])
def test_evaluators_keep_the_same_predictions(tiny_dataset: str, with_masks: bool) -> None:
    inputs = [{"image_id": number} for number in (3, 1, 2)]
    instances = [found(3, seed=1), found(0), found(5, (20, 30), seed=2)]
    if not with_masks:
        for one in instances:
            one.remove("pred_masks")
    outputs: list[dict[str, Any]] = [{"instances": one} for one in instances]
    predictions = []
    for evaluator in (
        COCOEvaluator(tiny_dataset),
        detectron2.evaluation.COCOEvaluator(tiny_dataset, use_fast_impl=False),
    ):
        evaluator.reset()
        evaluator.process(inputs[:2], outputs[:2])
        evaluator.process(inputs[2:], outputs[2:])
        predictions.append(evaluator._predictions)
    assert predictions[0] == predictions[1]
    assert all(one.has("pred_masks") == with_masks for one in instances)


def test_detections_have_masks_only_if_the_model_does() -> None:
    categories = [{"id": 10 + index, "name": f"class {index}"} for index in range(4)]
    instances = found(5)
    detections = to_detections(instances, categories)
    expected = instances_to_coco_json(instances, 0)
    assert [one["segmentation"] for one in detections] == [one["segmentation"] for one in expected]
    assert [one["category_id"] for one in detections] == [10, 11, 12, 13, 10]
    instances.remove("pred_masks")
    without = [{k: v for k, v in one.items() if k != "segmentation"} for one in detections]
    assert to_detections(instances, categories) == without
    assert to_detections(found(0), categories) == []
