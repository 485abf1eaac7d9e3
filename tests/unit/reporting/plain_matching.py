"""The matching of predictions with objects, one pair of boxes after the other."""

from collections.abc import Sequence
from typing import Any

Item = dict[str, Any]


def match(
    objects: list[Item], predictions: list[Item], min_iou: float
) -> list[tuple[Item, Item | None]]:
    """Each prediction, from the highest score on, with the object that it gets."""
    single = [item for item in objects if not item.get("iscrowd", 0)]
    crowds = [item for item in objects if item.get("iscrowd", 0)]
    pairs = []
    for prediction in sorted(predictions, key=lambda item: -item["score"]):
        found = _best(prediction, single, min_iou)
        if found is not None:
            single.remove(found)
        else:  # a crowd takes any number
            found = _best(prediction, crowds, min_iou)
        pairs.append((prediction, found))
    return pairs


def _best(prediction: Item, objects: list[Item], min_iou: float) -> Item | None:
    best, best_iou = None, min_iou
    for item in objects:
        overlap = _iou(prediction["bbox"], item["bbox"], bool(item.get("iscrowd", 0)))
        if item["image_id"] == prediction["image_id"] and overlap >= best_iou:
            best, best_iou = item, overlap
    return best


def _iou(box: Sequence[float], other: Sequence[float], crowd: bool) -> float:
    """Of boxes (x, y, width, height); for a crowd, over the area of ``box`` alone."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    intersection = max(width, 0) * max(height, 0)
    area, other_area = box[2] * box[3], other[2] * other[3]
    return intersection / (area if crowd else area + other_area - intersection)
