"""torchvision's Mask R-CNNs, doing the same work."""

import boxes
import torch
import torchvision.models.detection
from detectron2.structures import BitMasks
from torch import nn

_RATIO_OF_BYTES = 255.0


def build_peer(name: str, device: torch.device) -> nn.Module:
    """A model with random weights, whose images stay as large as they are.

    Its random scores all pass, so that it goes on with as many proposals and detections as the
    others are forced to; but they are its own.

    Args:
        name: the function that builds it.
        device: where it runs.
    """
    build = getattr(torchvision.models.detection, name)
    model: nn.Module = build(
        weights=None,
        weights_backbone=None,
        min_size=min(boxes.IMAGE_SIZE),
        max_size=max(boxes.IMAGE_SIZE),
        rpn_pre_nms_top_n_test=boxes.NUM_PROPOSALS,
        rpn_pre_nms_top_n_train=2 * boxes.NUM_PROPOSALS,
        rpn_post_nms_top_n_test=boxes.NUM_PROPOSALS,
        rpn_post_nms_top_n_train=boxes.NUM_PROPOSALS,
        box_score_thresh=0.0,
        box_detections_per_img=boxes.NUM_DETECTIONS,
    )
    return model.to(device)


def inputs(generator: torch.Generator, device: torch.device) -> list[torch.Tensor]:
    """An image for inference."""
    return [image["image"].to(device) / _RATIO_OF_BYTES for image in boxes.images(1, generator)]


def labelled_inputs(
    count: int, generator: torch.Generator, device: torch.device
) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Images and their objects for training."""
    found, targets = [], []
    for image in boxes.labelled_images(count, generator):
        instances = image["instances"]
        masks = BitMasks.from_polygon_masks(instances.gt_masks, *boxes.IMAGE_SIZE)
        found.append(image["image"].to(device) / _RATIO_OF_BYTES)
        targets.append(
            {
                "boxes": instances.gt_boxes.tensor.to(device),
                "labels": instances.gt_classes.to(device) + 1,
                "masks": masks.tensor.to(device, torch.uint8),
            }
        )
    return found, targets
