"""Run-length encoding of what models find, faster than detectron2's."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from pycocotools import mask as rle


def encode_masks(masks: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Masks as compressed run lengths in the form that JSON takes.

    Run lengths go by columns. OpenCV turns masks into these several times as fast as numpy does.

    Args:
        masks: (N, H, W).
    """
    found = []
    for mask in masks.view(np.uint8):
        encoded = rle.encode(cv2.transpose(mask).T)
        found.append({"size": encoded["size"], "counts": encoded["counts"].decode()})
    return found


def without_masks(instances: Instances) -> Instances:
    """The same instances, as if the model had no masks."""
    fields = instances.get_fields()
    rest = {name: field for name, field in fields.items() if name != "pred_masks"}
    return Instances(instances.image_size, **rest)


class QuickEncoding(DatasetEvaluator):
    """To be inherited from before an evaluator that keeps predictions in COCO's format.

    The results are the same, but their masks are encoded by :func:`encode_masks`.
    """

    _predictions: list[dict[str, Any]]

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        for of_image, output in zip(inputs, outputs):
            if "instances" not in output or not output["instances"].has("pred_masks"):
                super().process([of_image], [output])
                continue
            instances = output["instances"].to("cpu")
            super().process([of_image], [{**output, "instances": without_masks(instances)}])
            encoded = encode_masks(instances.pred_masks.numpy())
            for found, mask in zip(self._predictions[-1]["instances"], encoded):
                found["segmentation"] = mask
