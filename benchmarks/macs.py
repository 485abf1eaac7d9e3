"""The work that a model has with an image."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from boxes import forced
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def flop_counter() -> FlopCounterMode:
    """A counter that also knows the operations of oneDNN that this project calls.

    It counts what is computed: fewer multiply-adds where convolutions go by Winograd's algorithm.
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
    total: Sequence[int], _x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any
) -> int:
    return 2 * math.prod(total) * math.prod(weight[1:])


def count_macs(model: nn.Module, size: int, num_proposals: int, num_detections: int) -> int:
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
        flop_counter() as counter,
    ):
        model.inference([{"image": image}], do_postprocess=False)
    model.train(was_training)
    return counter.get_total_flops() // 2


def _whole_image(count: int, size: int, device: torch.device) -> Boxes:
    return Boxes(torch.tensor([[0.0, 0.0, size, size]], device=device).repeat(count, 1))
