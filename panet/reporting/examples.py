"""Visualizations of mistakes."""

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

Item = dict[str, Any]
"""An annotation or prediction in COCO's format."""

CONTEXT = 2.5
"""Side of the shown crop, relative to the longer side of the box."""
MIN_PART = 0.5
"""Minimum side of the crop, relative to the longer side of the image."""
SIZE = 360
"""Side of the crop in the visualization, in pixels."""
MIN_OVERLAP = 0.1
"""Minimum intersection over union with the box for other objects and predictions to be drawn."""
FRAME_COLOR = (255, 0, 220)
FRAME_MARGIN = 5
"""Distance between the box and its frame, in pixels of the visualization."""


@dataclass(frozen=True)
class Example:
    """A captioned visualization.

    Attributes:
        picture: data URI; ground truth on the left, predictions on the right.
        caption: description of the mistake.
    """

    picture: str
    caption: str


def draw_examples(
    mistakes: Sequence[Mistake], detections: Detections, min_score: float
) -> list[Example]:
    """Draw mistakes in a frame, with their surroundings.

    Args:
        mistakes: mistakes in ``detections``.
        detections: ground truth and predictions of a run.
        min_score: minimum score of the predictions to draw.

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
        examples.append(Example(_data_uri(picture), caption))
    return examples


def _overlapping(shown: Item, items: Iterable[Item]) -> list[Item]:
    """Select the items of the same image whose boxes overlap, by descending overlap."""
    near = [
        (overlap, item)
        for item in items
        if item["image_id"] == shown["image_id"] and (overlap := _iou(shown, item)) >= MIN_OVERLAP
    ]
    return [item for _, item in sorted(near, key=lambda pair: -pair[0])]


def _iou(a: Item, b: Item) -> float:
    """Intersection over union of two boxes."""
    return float(rle.iou([a["bbox"]], [b["bbox"]], [0])[0, 0])


def _draw(
    image: dict[str, Any],
    mistake: Mistake,
    objects: Sequence[Item],
    predictions: Sequence[Item],
    names: dict[int, str],
) -> npt.NDArray[np.uint8]:
    """Draw ground truth and predictions side by side in a crop around a mistake, in RGB."""
    sides = (mistake.object or mistake.prediction, mistake.prediction or mistake.object)
    boxes = [np.asarray(side["bbox"]) for side in sides if side is not None]  # x, y, width, height
    longest = max(image["height"], image["width"])
    scale = SIZE / min(max(CONTEXT * boxes[0][2:].max(), MIN_PART * longest), longest)
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
    halves = [np.ascontiguousarray(half) for half in np.split(picture, 2, axis=1)]
    height, width = halves[0].shape[:2]
    corner = scale * (boxes[0][:2] + boxes[0][2:] / 2) - SIZE / 2
    limit = np.maximum((width - SIZE, height - SIZE), 0)
    left, top = np.rint(corner.clip(0, limit)).astype(int)
    for half, box in zip(halves, boxes):
        start = np.rint(scale * box[:2] - FRAME_MARGIN).astype(int).tolist()
        end = np.rint(scale * (box[:2] + box[2:]) + FRAME_MARGIN).astype(int).tolist()
        cv2.rectangle(half, start, end, (255, 255, 255), 5)
        cv2.rectangle(half, start, end, FRAME_COLOR, 2)
    crops = [half[top : top + SIZE, left : left + SIZE] for half in halves]
    gap = np.full((len(crops[0]), 6, 3), 255, np.uint8)
    return np.concatenate([crops[0], gap, crops[1]], axis=1)


def _as_record(
    image: dict[str, Any], objects: Sequence[Item], categories: list[int]
) -> dict[str, Any]:
    """Convert to detectron2's dataset format."""
    # The visualizer needs masks for all objects or for none.
    with_masks = all(item.get("segmentation") for item in objects)
    annotations = [
        {
            "bbox": item["bbox"],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": categories.index(item["category_id"]),
            "iscrowd": item.get("iscrowd", 0),
            **({"segmentation": item["segmentation"]} if with_masks else {}),
        }
        for item in objects
    ]
    return {"file_name": image["file_name"], "annotations": annotations}


def _as_instances(
    image: dict[str, Any], predictions: Sequence[Item], categories: list[int]
) -> Instances:
    """Convert predictions to the output format of models."""
    boxes = torch.tensor([item["bbox"] for item in predictions]).reshape(-1, 4)
    classes = [categories.index(item["category_id"]) for item in predictions]
    instances = Instances(
        (image["height"], image["width"]),
        pred_boxes=Boxes(BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)),
        scores=torch.tensor([item["score"] for item in predictions]),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
    )
    if predictions and all("segmentation" in item for item in predictions):
        masks = rle.decode([item["segmentation"] for item in predictions])  # (H, W, N)
        instances.pred_masks = torch.from_numpy(masks).permute(2, 0, 1).bool()
    return instances


def _caption(mistake: Mistake, objects: Sequence[Item], names: dict[int, str]) -> str:
    truth, prediction = mistake
    predicted = ""
    if prediction is not None:
        predicted = f"{names[prediction['category_id']]}, score {prediction['score']:.2f}"
    if truth is not None:
        outcome = f"predicted as {predicted}" if predicted else "no prediction"
        return f"{names[truth['category_id']]} of {truth['area']:,.0f} pixels, {outcome}"
    if prediction is None or not objects:
        return f"{predicted}, no object"
    name, overlap = names[objects[0]["category_id"]], _iou(prediction, objects[0])
    return f"{predicted}, largest overlap with {name}, IoU {overlap:.2f}"


def _data_uri(picture: npt.NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
