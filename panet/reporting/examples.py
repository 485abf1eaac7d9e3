"""Mistakes, drawn on their images."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from pycocotools import mask as rle

from panet.evaluation import draw_comparison
from panet.utils.errors import UserError

from .confusion import Mistake
from .detections import Detections

Items = list[dict[str, Any]]

CONTEXT = 2.5
"""Side of the part of an image that is shown, in longest sides of the box."""
MIN_PART = 0.5
"""The least of it, in longest sides of the image."""
SIZE = 360
"""Side of the ground truth's and of the predictions' picture, in pixels."""
MIN_OVERLAP = 0.1
"""Intersection over union with the box, from which on objects and predictions are drawn."""
FRAME_COLOR = (255, 0, 220)
FRAME_MARGIN = 5
"""Between the box and its frame, in pixels of the picture."""


@dataclass(frozen=True)
class Example:
    """A picture for a page and the words that go with it.

    Attributes:
        picture: a data URI; left the ground truth, right the predictions.
        caption: what is wrong.
    """

    picture: str
    caption: str


def draw_examples(
    mistakes: Sequence[Mistake], detections: Detections, min_score: float
) -> list[Example]:
    """Draw mistakes, each in a frame and with what is around it.

    Args:
        mistakes: of the comparison of these detections.
        detections: of a run.
        min_score: predictions with lower scores are not drawn.

    Raises:
        UserError: if an image cannot be read.
    """
    images = {image["id"]: image for image in detections.content["images"]}
    names = detections.categories
    confident = [item for item in detections.predictions if item["score"] >= min_score]
    examples = []
    for mistake in mistakes:
        shown = mistake.object or mistake.prediction
        assert shown is not None
        image = images[shown["image_id"]]
        objects = _overlapping(shown, detections.content["annotations"])
        picture = _draw(image, mistake, objects, _overlapping(shown, confident), names)
        caption = f"{_caption(mistake, objects, names)} ({Path(image['file_name']).name})"
        examples.append(Example(_as_uri(picture), caption))
    return examples


def _overlapping(shown: dict[str, Any], items: Iterable[dict[str, Any]]) -> Items:
    """Those on the same image whose boxes overlap, the one that does most first."""
    near = [
        (overlap, item)
        for item in items
        if item["image_id"] == shown["image_id"] and (overlap := _iou(shown, item)) >= MIN_OVERLAP
    ]
    return [item for _, item in sorted(near, key=lambda pair: -pair[0])]


def _iou(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Intersection over union of two boxes."""
    boxes = (np.array([item["bbox"]], np.float64) for item in (one, other))
    return float(rle.iou(*boxes, [0])[0, 0])


def _draw(
    image: dict[str, Any],
    mistake: Mistake,
    objects: Items,
    predictions: Items,
    names: dict[int, str],
) -> npt.NDArray[np.uint8]:
    """Both sides of the part of an image around a mistake, in RGB."""
    sides = (mistake.object or mistake.prediction, mistake.prediction or mistake.object)
    boxes = [side["bbox"] for side in sides if side is not None]  # x, y, width, height
    box = boxes[0]
    height, width = image["height"], image["width"]
    part = max(CONTEXT * max(box[2:]), MIN_PART * max(height, width))
    scale = SIZE / min(part, max(height, width))
    try:
        picture = draw_comparison(
            _as_record(image, objects, list(names)),
            _as_instances(image, predictions, list(names)),
            Metadata(thing_classes=list(names.values())),
            min_score=0.0,
            scale=scale,
        )
    except OSError as error:
        raise UserError(f"The image {image['file_name']} cannot be read: {error}") from error
    halves = []
    for half, own_box in zip(np.split(picture, 2, axis=1), boxes):
        framed = _frame(half, own_box, scale)
        left, top = (
            round(min(max(scale * (start + side / 2) - SIZE / 2, 0), max(length - SIZE, 0)))
            for start, side, length in (
                (box[0], box[2], half.shape[1]),
                (box[1], box[3], half.shape[0]),
            )
        )
        halves.append(framed[top : top + SIZE, left : left + SIZE])
    gap = np.full((len(halves[0]), 6, 3), 255, np.uint8)
    return np.concatenate([halves[0], gap, halves[1]], axis=1)


def _frame(picture: npt.NDArray[np.uint8], box: list[float], scale: float) -> npt.NDArray[np.uint8]:
    x, y, width, height = (scale * length for length in box)
    x0, y0 = round(x - FRAME_MARGIN), round(y - FRAME_MARGIN)
    x1, y1 = round(x + width + FRAME_MARGIN), round(y + height + FRAME_MARGIN)
    framed = np.ascontiguousarray(picture)
    cv2.rectangle(framed, (x0, y0), (x1, y1), (255, 255, 255), 5)
    cv2.rectangle(framed, (x0, y0), (x1, y1), FRAME_COLOR, 2)
    return framed


def _as_record(image: dict[str, Any], objects: Items, categories: list[int]) -> dict[str, Any]:
    """The image in detectron2's dataset format."""
    annotations = []
    for item in objects:
        annotation = {
            "bbox": item["bbox"],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": categories.index(item["category_id"]),
            "iscrowd": item.get("iscrowd", 0),
        }
        if item.get("segmentation"):
            annotation["segmentation"] = item["segmentation"]
        annotations.append(annotation)
    # The drawing takes the masks of all objects or of none.
    if not all("segmentation" in annotation for annotation in annotations):
        for annotation in annotations:
            annotation.pop("segmentation", None)
    return {"file_name": image["file_name"], "annotations": annotations}


def _as_instances(image: dict[str, Any], predictions: Items, categories: list[int]) -> Instances:
    """Predictions as a model outputs them."""
    size = (image["height"], image["width"])
    boxes = torch.tensor([item["bbox"] for item in predictions]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    instances = Instances(
        size,
        pred_boxes=Boxes(boxes),
        scores=torch.tensor([item["score"] for item in predictions]),
        pred_classes=torch.tensor(
            [categories.index(item["category_id"]) for item in predictions], dtype=torch.int64
        ),
    )
    if all("segmentation" in item for item in predictions):
        masks = [rle.decode(item["segmentation"]) for item in predictions]
        stacked = np.stack(masks) if masks else np.zeros((0, *size), np.uint8)
        instances.pred_masks = torch.from_numpy(stacked).bool()
    return instances


def _caption(mistake: Mistake, objects: Items, names: dict[int, str]) -> str:
    there, predicted = mistake
    if there is not None:
        was = f"{names[there['category_id']]} of {there['area']:,.0f} pixels"
        if predicted is None:
            return f"{was}, without a prediction"
        return f"{was}, taken for {names[predicted['category_id']]}, score {predicted['score']:.2f}"
    assert predicted is not None
    what = f"{names[predicted['category_id']]}, score {predicted['score']:.2f}"
    if not objects:
        return f"{what}, where no object is"
    name, overlap = names[objects[0]["category_id"]], _iou(predicted, objects[0])
    return f"{what}; overlaps {name} most, IoU {overlap:.2f}"


def _as_uri(picture: npt.NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
