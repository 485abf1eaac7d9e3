"""Tests of training in several processes on one machine, with and without GPUs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import needs
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from small_batches import image
from torch import distributed, multiprocessing

from panet.compat.detectron2_launch import launch
from panet.engine import PANetTrainer


class DoubleTrainer(PANetTrainer):
    """Trains in double precision, so that joint and synchronized statistics agree closely."""

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        model = super().build_model(cfg).double()
        if model.proposal_generator is not None:
            # Proposals do not affect the loss, and NMS does not support mixed precisions.
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


def run_in_two_processes(
    main: Callable[..., None], args: tuple[Any, ...], device: torch.device
) -> None:
    """Use NCCL if each process has a GPU; if there is only one GPU, share it and use gloo."""
    if device.type == "cpu" or torch.cuda.device_count() > 1:
        launch(main, 2, dist_url="auto", args=args)
    else:
        store = Path(args[-1]).with_name("store")
        multiprocessing.spawn(run_on_the_only_gpu, nprocs=2, args=(store, main, args))


def run_on_the_only_gpu(
    rank: int, store: Path, main: Callable[..., None], args: tuple[Any, ...]
) -> None:
    distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    comm.create_local_process_group(1)  # local rank 0: uses the first GPU
    main(*args)
    distributed.destroy_process_group()


@pytest.mark.parametrize("device", needs.DEVICES)
@pytest.mark.parametrize("norm", ["GN", "SyncBN"])
@pytest.mark.parametrize("architecture", ["GeneralizedRCNN", "ProposalNetwork"])
def test_two_processes_give_the_gradient_of_the_joint_batch(
    tiny_cfg: CfgNode, tmp_path: Path, norm: str, architecture: str, device: torch.device
) -> None:
    cfg = tiny_cfg
    cfg.MODEL.DEVICE = str(device)
    cfg.MODEL.META_ARCHITECTURE = architecture
    for node in (cfg.MODEL.RESNETS, cfg.MODEL.FPN, cfg.MODEL.PAFPN, cfg.MODEL.ROI_MASK_HEAD):
        node.NORM = norm
    if architecture == "GeneralizedRCNN":
        cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
        cfg.MODEL.ROI_HEADS.PROPOSAL_APPEND_GT = False
        cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = 1.0
    # More than the number of anchors, so that all are sampled.
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = 100_000
    joint, shared = str(tmp_path / "joint.pth"), str(tmp_path / "shared.pth")
    gradients(cfg, joint)
    run_in_two_processes(gradients, (cfg, shared), device)
    expected, actual = torch.load(joint), torch.load(shared)
    assert expected.keys() == actual.keys()
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        error = (actual[name] - gradient).abs().max().item()
        assert error <= 1e-5 * scale, f"{name}: {error} of {scale}"


def losses_of_an_empty_share(cfg: CfgNode, file: str) -> None:
    """Run two training steps in which one process has no foreground for its mask head."""
    torch.manual_seed(0)
    model = PANetTrainer(cfg).model
    batch = image(0)
    if comm.get_rank() == 1:
        batch["proposals"].proposal_boxes.tensor[:] = torch.tensor([0.0, 0.0, 2.0, 2.0])
    for _ in range(2):
        with EventStorage():
            losses = model([batch])
        sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    if comm.is_main_process():
        torch.save({name: loss.item() for name, loss in losses.items()}, file)


@pytest.mark.parametrize("device", needs.DEVICES)
def test_a_process_without_foreground_takes_part(
    tiny_cfg: CfgNode, tmp_path: Path, device: torch.device
) -> None:
    cfg = tiny_cfg
    cfg.MODEL.DEVICE = str(device)
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    cfg.MODEL.ROI_HEADS.PROPOSAL_APPEND_GT = False
    cfg.MODEL.PAFPN.NORM = cfg.MODEL.ROI_MASK_HEAD.NORM = "SyncBN"
    file = str(tmp_path / "losses.pth")
    run_in_two_processes(losses_of_an_empty_share, (cfg, file), device)
    assert torch.load(file)["loss_mask"] > 0
