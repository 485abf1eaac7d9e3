"""Several processes on one machine without GPUs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from panet.engine import PANetTrainer
from panet.launch import launch

SIZE = (64, 96)


def image(seed: int) -> dict[str, Any]:
    """An image with two objects, and three proposals on each of them.

    All proposals are foreground, and their number is the same in every image, so that the mean of
    the processes' losses is the loss of the joint batch.
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


class DoubleTrainer(PANetTrainer):
    """In double precision, in which the two ways of computing statistics agree closely."""

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        model = super().build_model(cfg).double()
        if model.proposal_generator is not None:
            # Proposals are not part of the loss, and NMS takes no mixture of precisions.
            model.proposal_generator.predict_proposals = lambda *args: None
        return model


def gradients(cfg: CfgNode, file: str) -> None:
    """Save the gradients of one step on this process's share of two images."""
    torch.manual_seed(0)
    model = DoubleTrainer(cfg).model
    rank, world_size = comm.get_rank(), comm.get_world_size()
    with EventStorage():
        losses = model([image(seed) for seed in (0, 1)][rank::world_size])
    sum(losses.values()).backward()
    if comm.is_main_process():
        plain = model.module if world_size > 1 else model
        torch.save({name: p.grad for name, p in plain.named_parameters()}, file)


@pytest.mark.parametrize("norm", ["GN", "SyncBN"])
@pytest.mark.parametrize("architecture", ["GeneralizedRCNN", "ProposalNetwork"])
def test_two_processes_give_the_gradient_of_the_joint_batch(
    tiny_cfg: CfgNode, tmp_path: Path, norm: str, architecture: str
) -> None:
    cfg = tiny_cfg
    cfg.MODEL.META_ARCHITECTURE = architecture
    for node in (cfg.MODEL.RESNETS, cfg.MODEL.FPN, cfg.MODEL.PAFPN, cfg.MODEL.ROI_MASK_HEAD):
        node.NORM = norm
    if architecture == "GeneralizedRCNN":
        cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
        cfg.MODEL.ROI_HEADS.PROPOSAL_APPEND_GT = False
        cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = 1.0
    # More than there are anchors, so that none is left out at random.
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = 100_000
    joint, shared = str(tmp_path / "joint.pth"), str(tmp_path / "shared.pth")
    gradients(cfg, joint)
    launch(gradients, 2, dist_url="auto", args=(cfg, shared))
    expected, actual = torch.load(joint), torch.load(shared)
    assert expected.keys() == actual.keys()
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        error = (actual[name] - gradient).abs().max().item()
        assert error <= 1e-5 * scale, f"{name}: {error} of {scale}"
