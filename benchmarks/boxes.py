"""Inputs of the benchmarks: random images, and boxes that are the same for every model."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from detectron2.structures import Boxes, Instances, PolygonMasks
from torch import Tensor, nn

IMAGE_SIZE = (800, 1088)
NUM_CLASSES = 80
NUM_PROPOSALS = 1000
NUM_DETECTIONS = 100
NUM_OBJECTS = 12


def random_boxes(count: int, generator: torch.Generator) -> Tensor:
    """Sample (count, 4) boxes inside the image, in pixels.

    The square root of the area is log-uniform from 16 to 512 pixels and the aspect ratio from 1/2
    to 2, so that there are as many small boxes as large ones.
    """
    height, width = IMAGE_SIZE
    u = torch.rand(4, count, generator=generator)
    side = 16 * (512 / 16) ** u[0]
    ratio = 2 ** (2 * u[1] - 1)
    w, h = side * ratio.sqrt(), side / ratio.sqrt()
    x, y = u[2] * (width - w).clamp(min=0), u[3] * (height - h).clamp(min=0)
    return torch.stack([x, y, (x + w).clamp(max=width), (y + h).clamp(max=height)], dim=1)


def jittered_boxes(boxes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return (count, 4) copies, each side moved by at most 5 %, so that the IoU is above 0.8."""
    copies = boxes[torch.arange(count) % len(boxes)]
    size = (copies[:, 2:] - copies[:, :2]).repeat(1, 2)
    return copies + (torch.rand(count, 4, generator=generator) - 0.5) * 0.1 * size


def proposals(boxes: Tensor, device: torch.device) -> Instances:
    """Convert boxes to the output of a proposal generator for one image."""
    instances = Instances(IMAGE_SIZE)
    instances.proposal_boxes = Boxes(boxes.to(device))
    instances.objectness_logits = torch.linspace(5, -5, len(boxes), device=device)
    return instances


def detections(boxes: Tensor, device: torch.device) -> Instances:
    """Convert boxes to the output of a box head for one image."""
    instances = Instances(IMAGE_SIZE)
    instances.pred_boxes = Boxes(boxes.to(device))
    instances.scores = torch.linspace(0.99, 0.06, len(boxes), device=device)
    instances.pred_classes = (torch.arange(len(boxes)) * 7 % NUM_CLASSES).to(device)
    return instances


def ellipses(boxes: Tensor) -> PolygonMasks:
    """Return the ellipse inscribed in each box as a polygon mask."""
    angle = torch.linspace(0, 2 * math.pi, 33)[:-1]
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    center, radius = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    polygons = center[:, None] + radius[:, None] * circle
    return PolygonMasks([[polygon.flatten().numpy()] for polygon in polygons])


def images(count: int, generator: torch.Generator) -> list[dict[str, Any]]:
    """Create images of random pixels in detectron2's input format."""
    height, width = IMAGE_SIZE
    return [
        {"image": torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)}
        for _ in range(count)
    ]


def labeled_images(count: int, generator: torch.Generator) -> list[dict[str, Any]]:
    """Create images of random pixels with ``NUM_OBJECTS`` annotated objects each."""
    batch = images(count, generator)
    for image in batch:
        boxes = random_boxes(NUM_OBJECTS, generator)
        image["instances"] = Instances(
            IMAGE_SIZE,
            gt_boxes=Boxes(boxes),
            gt_classes=torch.randint(NUM_CLASSES, (NUM_OBJECTS,), generator=generator),
            gt_masks=ellipses(boxes),
        )
    return batch


@contextlib.contextmanager
def forced(
    model: nn.Module, proposed: list[Instances], detected: list[Instances] | None = None
) -> Iterator[None]:
    """Make the model compute its proposals and detections, but continue with these instead.

    Args:
        model: a ``GeneralizedRCNN``.
        proposed: proposals for each image.
        detected: detections for each image; None keeps those of the model.
    """
    predictor = model.roi_heads.box_predictor
    infer = predictor.inference

    def replace_proposals(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        return proposed, output[1]

    def replace_detections(*args: Any) -> Any:
        infer(*args)
        copies = [Instances(i.image_size, **i.get_fields()) for i in detected]
        for copy in copies:  # later steps modify them in place
            copy.pred_boxes = copy.pred_boxes.clone()
        return copies, None

    replacement = infer if detected is None else replace_detections
    hook = model.proposal_generator.register_forward_hook(replace_proposals)
    try:
        with mock.patch.object(predictor, "inference", replacement):
            yield
    finally:
        hook.remove()
