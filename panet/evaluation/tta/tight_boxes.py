"""Detections as large as their masks."""

import torch
from detectron2.structures import BitMasks, Boxes, Instances


def tighten_boxes(instances: Instances) -> None:
    """Replace every box by the bounding box of its mask.

    Args:
        instances: N, with "pred_boxes" in pixels and "pred_masks", (N, H, W), bool. The box of an
            empty mask stays.
    """
    tight = BitMasks(instances.pred_masks).get_bounding_boxes().tensor
    boxes = instances.pred_boxes.tensor
    instances.pred_boxes = Boxes(
        torch.where(instances.pred_masks.flatten(1).any(1)[:, None], tight.to(boxes), boxes)
    )
