"""``panet proposals``: proposal files from a trained RPN."""

import argparse
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.structures import BoxMode
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn
from tqdm import tqdm

from panet import model_zoo
from panet.cli.models import load_model
from panet.compat.detectron2_launch import launch
from panet.config import load_config
from panet.data.availability import check_datasets
from panet.engine import PANetTrainer
from panet.modeling.independent_rpn import proposal_network_config
from panet.prepare import prepare
from panet.utils.atomic import open_atomically
from panet.utils.device import check_gpus, keep_freed_memory, limit_cpu_threads
from panet.utils.errors import UserError, exit_on_user_error

# An image's id, its boxes (N, 4) and their logits (N,).
Proposals = tuple[int | str, npt.NDArray[np.float32], npt.NDArray[np.float32]]


def main(args: argparse.Namespace) -> None:
    """Run the command, in ``args.num_gpus`` processes."""
    check_gpus(args.num_gpus)
    launch(write_all, args.num_gpus, dist_url=args.dist_url, args=(args,))


@exit_on_user_error()
def write_all(args: argparse.Namespace) -> None:
    """Write the proposals of this process and, in the main one, the files."""
    setup_logger(distributed_rank=comm.get_rank(), name="fvcore")
    config_file = model_zoo.find_config_file(args.config_file)
    cfg = proposal_network_config(prepare(load_config(config_file, args.opts)))
    names = args.dataset or [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    if not names:
        raise UserError(
            "DATASETS.TRAIN and DATASETS.TEST are empty; name a dataset with --dataset."
        )
    check_datasets(cfg, names)
    if cfg.MODEL.DEVICE == "cpu":
        limit_cpu_threads(comm.get_local_size())
        keep_freed_memory()
    model = load_model(cfg)
    for name in names:
        parts = comm.gather(propose(model, cfg, name))
        if comm.is_main_process():
            file = args.output_dir / f"{name}.pkl"
            write([proposals for part in parts for proposals in part], file)
            print(file)


@torch.no_grad()
def propose(model: nn.Module, cfg: CfgNode, dataset: str) -> list[Proposals]:
    """Compute this process's share of the proposals of a dataset, in pixels of the image files."""
    loader = PANetTrainer.build_test_loader(cfg, dataset)
    bar = tqdm(loader, desc=dataset, unit="image", disable=not comm.is_main_process())
    proposals: list[Proposals] = []
    for inputs in bar:
        for record, output in zip(inputs, model(inputs)):
            found = output["proposals"].to("cpu")
            boxes, logits = found.proposal_boxes.tensor, found.objectness_logits
            proposals.append((record["image_id"], boxes.float().numpy(), logits.float().numpy()))
    return proposals


def write(proposals: list[Proposals], file: Path) -> None:
    """Write a proposal file of detectron2 atomically."""
    content: dict[str, Any] = {
        "ids": [image_id for image_id, _, _ in proposals],
        "boxes": [boxes for _, boxes, _ in proposals],
        "objectness_logits": [logits for _, _, logits in proposals],
        "bbox_mode": int(BoxMode.XYXY_ABS),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(file) as stream:
        pickle.dump(content, stream, protocol=4)
