"""Images of noise with objects and proposals, whose losses do not depend on random sampling."""

from typing import Any

import torch
from detectron2.structures import BitMasks, Boxes, Instances

SIZE = (64, 96)


def image(seed: int) -> dict[str, Any]:
    """Create an image with two objects and three proposals for each of them.

    All proposals are foreground, and every image has the same number, so that the mean of the
    processes' losses is the loss of the joint batch.
    """
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.tensor([[5.0, 5.0, 40.0, 50.0], [50.0, 8.0, 90.0, 60.0]])
    boxes += torch.rand(2, 4, generator=generator) * 4
    targets = Instances(SIZE, gt_boxes=Boxes(boxes), gt_classes=torch.tensor([seed, 2]))
    targets.gt_masks = BitMasks(torch.rand(2, *SIZE, generator=generator) > 0.5)
    proposals = Instances(SIZE)
    jitter = torch.rand(6, 4, generator=generator) * 4 - 2
    proposals.proposal_boxes = Boxes(boxes.repeat(3, 1) + jitter)
    proposals.objectness_logits = torch.zeros(6)
    pixels = torch.rand(3, *SIZE, generator=generator) * 255
    return {"image": pixels, "instances": targets, "proposals": proposals}
