"""Count the MACs (multiply-accumulate operations) of a model."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from boxes import forced
from detectron2.structures import Boxes, Instances
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def flop_counter() -> FlopCounterMode:
    """Create a counter that includes the oneDNN operators that panet calls.

    It counts the operations that are executed: fewer where Winograd's algorithm computes a
    convolution.
    """
    mkldnn = torch.ops.mkldnn
    return FlopCounterMode(
        display=False,
        custom_mapping={
            mkldnn._linear_pointwise: _count_linear,
            mkldnn._convolution_pointwise: _count_convolution,
            mkldnn._convolution_pointwise_: _count_added_convolution,
        },
    )


def _count_linear(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(x) * weight[0]


def _count_convolution(
    _x: Sequence[int], weight: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any
) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


def _count_added_convolution(
    total: Sequence[int], x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any
) -> int:
    return _count_convolution(x, weight, out_shape=total)


def count_macs(model: nn.Module, size: int, num_proposals: int, num_detections: int) -> int:
    """Count the MACs of the convolutions and matrix products for one image.

    Args:
        model: a ``GeneralizedRCNN`` with box and mask head.
        size: height and width of the image, in pixels.
        num_proposals: number of boxes for the box head, regardless of the model's proposals.
        num_detections: number of boxes for the mask head, regardless of the model's detections.
    """
    device = next(model.parameters()).device
    whole_image = torch.tensor([[0.0, 0.0, size, size]], device=device)
    proposed, detected = Instances((size, size)), Instances((size, size))
    proposed.proposal_boxes = Boxes(whole_image.repeat(num_proposals, 1))
    proposed.objectness_logits = torch.zeros(num_proposals, device=device)
    detected.pred_boxes = Boxes(whole_image.repeat(num_detections, 1))
    detected.scores = torch.ones(num_detections, device=device)
    detected.pred_classes = torch.zeros(num_detections, dtype=torch.int64, device=device)
    image = torch.zeros(3, size, size, dtype=torch.uint8)
    was_training = model.training
    model.eval()
    with torch.no_grad(), forced(model, [proposed], [detected]), flop_counter() as counter:
        model.inference([{"image": image}], do_postprocess=False)
    model.train(was_training)
    return counter.get_total_flops() // 2
