"""Convert model outputs to COCO results."""

from collections.abc import Sequence
from typing import Any

from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances

from panet.deployment import Category
from panet.evaluation.run_lengths import encode_masks, without_masks


def to_detections(instances: Instances, categories: Sequence[Category]) -> list[dict[str, Any]]:
    """Convert the instances of one image to COCO result entries without "image_id".

    Args:
        instances: output of a model, on the CPU.
        categories: categories of the model's classes, in class order.

    Returns:
        For each instance "category_id", the category's name "category", "bbox" as
        [x, y, width, height] in pixels, "score" and, if it has a mask, "segmentation" as
        compressed RLE.
    """
    detections = []
    for result in instances_to_coco_json(without_masks(instances), 0):
        category = categories[result["category_id"]]
        detections.append(
            {
                "category_id": category["id"],
                "category": category["name"],
                "bbox": [round(value, 3) for value in result["bbox"]],
                "score": round(result["score"], 6),
            }
        )
    if instances.has("pred_masks"):
        masks = encode_masks(instances.pred_masks.numpy())
        for detection, mask in zip(detections, masks):
            detection["segmentation"] = mask
    return detections
