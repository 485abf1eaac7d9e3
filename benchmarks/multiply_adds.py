"""The work that a model has with an image."""

import torch
from boxes import forced
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def count_multiply_adds(
    model: nn.Module, size: int, num_proposals: int, num_detections: int
) -> int:
    """Multiply-adds of the convolutions and matrix products for one image.

    Args:
        model: a ``GeneralizedRCNN`` with box and mask head.
        size: height and width of the image, in pixels.
        num_proposals: boxes that the box head gets, whatever the model proposes.
        num_detections: boxes that the mask head gets, whatever the model detects.
    """
    device = next(model.parameters()).device
    proposed, detected = Instances((size, size)), Instances((size, size))
    proposed.proposal_boxes = _whole_image(num_proposals, size, device)
    proposed.objectness_logits = torch.zeros(num_proposals, device=device)
    detected.pred_boxes = _whole_image(num_detections, size, device)
    detected.scores = torch.ones(num_detections, device=device)
    detected.pred_classes = torch.zeros(num_detections, dtype=torch.int64, device=device)
    image: Tensor = torch.zeros(3, size, size, dtype=torch.uint8)
    was_training = model.training
    model.eval()
    with (
        torch.no_grad(),
        forced(model, [proposed], [detected]),
        FlopCounterMode(display=False) as counter,
    ):
        model.inference([{"image": image}], do_postprocess=False)
    model.train(was_training)
    return counter.get_total_flops() // 2


def _whole_image(count: int, size: int, device: torch.device) -> Boxes:
    return Boxes(torch.tensor([[0.0, 0.0, size, size]], device=device).repeat(count, 1))
