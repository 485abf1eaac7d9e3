"""Visualization of predictions beside their ground truth."""

from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.data import Metadata
from detectron2.data.detection_utils import read_image
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer


def draw_comparison(
    record: dict[str, Any],
    predictions: Instances,
    metadata: Metadata,
    min_score: float = 0.5,
    scale: float = 1.0,
) -> npt.NDArray[np.uint8]:
    """Draw the ground truth of an image and, to its right, the predictions.

    Args:
        record: the image in detectron2's dataset format, with its annotations.
        predictions: the model's output, on any device.
        metadata: metadata of the dataset.
        min_score: minimum score of the predictions to draw.
        scale: size of the visualization relative to the image.

    Returns:
        (scale * H, 2 * scale * W, 3), RGB.
    """
    image = read_image(record["file_name"], "RGB")
    left = Visualizer(image, metadata, scale).draw_dataset_dict(record)
    shown = predictions[predictions.scores >= min_score].to("cpu")
    right = Visualizer(image, metadata, scale).draw_instance_predictions(shown)
    return np.concatenate([left.get_image(), right.get_image()], axis=1)
