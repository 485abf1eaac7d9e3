"""The inputs of the benchmarks: random pixels, and the same boxes for every model."""

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
    """(count, 4) boxes inside the image, in pixels.

    The square root of the area is log-uniform from 16 to 512 pixels, the aspect ratio from 1/2
    to 2: as many small boxes as large ones.
    """
    height, width = IMAGE_SIZE
    u = torch.rand(4, count, generator=generator)
    side = 16 * (512 / 16) ** u[0]
    ratio = 2 ** (2 * u[1] - 1)
    w, h = side * ratio.sqrt(), side / ratio.sqrt()
    x, y = u[2] * (width - w).clamp(min=0), u[3] * (height - h).clamp(min=0)
    return torch.stack([x, y, (x + w).clamp(max=width), (y + h).clamp(max=height)], dim=1)


def jittered_boxes(boxes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count, 4) boxes that overlap those given by well over one half."""
    chosen = boxes[torch.arange(count) % len(boxes)]
    size = (chosen[:, 2:] - chosen[:, :2]).repeat(1, 2)
    return chosen + (torch.rand(count, 4, generator=generator) - 0.5) * 0.1 * size


def proposals(boxes: Tensor, device: torch.device) -> Instances:
    """What a proposal generator gives for one image."""
    instances = Instances(IMAGE_SIZE)
    instances.proposal_boxes = Boxes(boxes.to(device))
    instances.objectness_logits = torch.linspace(5, -5, len(boxes), device=device)
    return instances


def detections(boxes: Tensor, device: torch.device) -> Instances:
    """What a box head gives for one image."""
    instances = Instances(IMAGE_SIZE)
    instances.pred_boxes = Boxes(boxes.to(device))
    instances.scores = torch.linspace(0.99, 0.06, len(boxes), device=device)
    instances.pred_classes = (torch.arange(len(boxes)) * 7 % NUM_CLASSES).to(device)
    return instances


def ellipses(boxes: Tensor) -> PolygonMasks:
    """A mask for each box, the ellipse that it bounds, as the polygon that COCO would have."""
    angle = torch.linspace(0, 2 * math.pi, 33)[:-1]
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    center, radius = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    polygons = center[:, None] + radius[:, None] * circle
    return PolygonMasks([[polygon.flatten().numpy()] for polygon in polygons])


def images(count: int, generator: torch.Generator) -> list[dict[str, Any]]:
    """Images of random pixels in detectron2's input format."""
    height, width = IMAGE_SIZE
    return [
        {"image": torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)}
        for _ in range(count)
    ]


def labelled_images(count: int, generator: torch.Generator) -> list[dict[str, Any]]:
    """Images of random pixels, each with a dozen objects."""
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
    """Have the model compute its proposals and detections, and go on with these instead."""

    def replace_proposals(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        return proposed, output[1]

    predictor = model.roi_heads.box_predictor
    infer = predictor.inference

    def replace_detections(*args: Any) -> Any:
        infer(*args)
        # Later steps write to them.
        copies = [Instances(i.image_size, **i.get_fields()) for i in detected]
        for copy in copies:
            copy.pred_boxes = copy.pred_boxes.clone()
        return copies, None

    hook = model.proposal_generator.register_forward_hook(replace_proposals)
    try:
        with contextlib.ExitStack() as stack:
            if detected is not None:
                stack.enter_context(mock.patch.object(predictor, "inference", replace_detections))
            yield
    finally:
        hook.remove()
