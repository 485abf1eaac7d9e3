"""Boxes tightened to their masks."""

import torch
from detectron2.structures import BitMasks, Boxes, Instances


def tighten_boxes(instances: Instances) -> None:
    """Replace every box by the bounding box of its mask, in place.

    Args:
        instances: N instances with "pred_boxes" in pixels and "pred_masks", (N, H, W), bool. An
            instance with an empty mask keeps its box.
    """
    masks, boxes = BitMasks(instances.pred_masks), instances.pred_boxes.tensor
    tight = masks.get_bounding_boxes().tensor.to(boxes)
    instances.pred_boxes = Boxes(torch.where(masks.nonempty()[:, None], tight, boxes))
