"""torchvision's Mask R-CNN models on the same inputs."""

import boxes
import torch
import torchvision.models.detection
from detectron2.structures import BitMasks
from torch import nn

_PIXEL_MAX = 255.0


def build_peer(name: str, device: torch.device) -> nn.Module:
    """Build a model with random weights that does not resize the images.

    All its random scores pass the thresholds, so that it processes as many proposals and detections
    as are forced on the other models; but it uses its own boxes.

    Args:
        name: function of ``torchvision.models.detection`` that builds the model.
        device: device of the model.
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
    """Create an image for inference."""
    return [image["image"].to(device) / _PIXEL_MAX for image in boxes.images(1, generator)]


def labeled_inputs(
    count: int, generator: torch.Generator, device: torch.device
) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Create images and targets for training."""
    pixels, targets = [], []
    for image in boxes.labeled_images(count, generator):
        instances = image["instances"]
        masks = BitMasks.from_polygon_masks(instances.gt_masks, *boxes.IMAGE_SIZE)
        pixels.append(image["image"].to(device) / _PIXEL_MAX)
        targets.append(
            {
                "boxes": instances.gt_boxes.tensor.to(device),
                "labels": instances.gt_classes.to(device) + 1,
                "masks": masks.tensor.to(device, torch.uint8),
            }
        )
    return pixels, targets
