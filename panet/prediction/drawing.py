"""Pictures of what was found in an image."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer

from .reading import Picture


def draw(
    image: Picture, detections: Sequence[dict[str, Any]], by_category: bool = False
) -> Picture:
    """The image with boxes, masks, categories and scores on it.

    Args:
        image: (H, W, 3), BGR.
        detections: from :func:`panet.prediction.detections.to_detections`.
        by_category: give each category its colour, which is steady over the frames of a video.
            Otherwise neighbouring detections have different ones.

    Returns:
        (H, W, 3), BGR.
    """
    if not detections:
        return image.copy()
    colors = colormap(rgb=True, maximum=1)
    numbers = [
        detection["category_id"] if by_category else rank
        for rank, detection in enumerate(detections)
    ]
    boxes = np.array([detection["bbox"] for detection in detections], dtype=np.float32)
    canvas = Visualizer(np.ascontiguousarray(image[:, :, ::-1])).overlay_instances(
        boxes=BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS),
        labels=[f"{found['category']} {100 * found['score']:.0f}%" for found in detections],
        masks=[found["segmentation"] for found in detections]
        if "segmentation" in detections[0]
        else None,
        assigned_colors=[colors[number % len(colors)] for number in numbers],
    )
    return np.ascontiguousarray(canvas.get_image()[:, :, ::-1])
