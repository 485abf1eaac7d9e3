"""Initial weights that rows of the ablation share wherever they have the same layers."""

from collections.abc import Callable

import torch
from components import ROWS, Row
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from torch import nn

from panet.engine import PANetTrainer


def build_initial_model(row: Row, load_config: Callable[[Row], CfgNode]) -> nn.Module:
    """Build the untrained model of a row.

    Parameters that it shares with its reference, recursively, have the same values, so that rows
    can be compared in pairs with the same seed.

    Args:
        row: row of the ablation.
        load_config: returns the configuration of a row, whose ``SEED`` determines the values.
    """
    cfg = load_config(row)
    seed_all_rng(cfg.SEED)
    model = PANetTrainer.build_model(cfg)
    if row.reference is not None:
        copy_common_weights(build_initial_model(ROWS[row.reference], load_config), model)
    return model


@torch.no_grad()
def copy_common_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy the parameters that have the same name and shape in both models."""
    values = dict(source.named_parameters())
    for name, parameter in target.named_parameters():
        if name in values and values[name].shape == parameter.shape:
            parameter.copy_(values[name])
