"""Models that start from the same weights wherever they have the same layers."""

from collections.abc import Callable

import torch
from components import ROWS, Row
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from torch import nn

from panet.engine import PANetTrainer


def build_initial_model(row: Row, load_config: Callable[[Row], CfgNode]) -> nn.Module:
    """The model of a row before training.

    What it has in common with its reference, and that with its own, starts from the same values,
    so that rows can be compared in pairs of one seed.

    Args:
        row: of the ablation.
        load_config: gives the configuration of a row, whose ``SEED`` decides the values.
    """
    cfg = load_config(row)
    seed_all_rng(cfg.SEED)
    model = PANetTrainer.build_model(cfg)
    if row.reference is not None:
        copy_common_weights(build_initial_model(ROWS[row.reference], load_config), model)
    return model


@torch.no_grad()
def copy_common_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy the parameters that have the same name and shape in both."""
    theirs = dict(source.named_parameters())
    for name, parameter in target.named_parameters():
        if name in theirs and theirs[name].shape == parameter.shape:
            parameter.copy_(theirs[name])
