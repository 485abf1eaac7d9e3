"""Files of models that are small, find much, and have learned nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn


class SmallModel(NamedTuple):
    """A configuration file and the weights that belong to it."""

    config_file: Path
    weights: Path


def write_model(
    cfg: CfgNode, folder: Path, classes: Sequence[str] = (), seed: int = 3
) -> SmallModel:
    """Write a model of random weights, whose detections of all classes have steady scores.

    Args:
        cfg: of the model.
        folder: to write to.
        classes: names to write beside the weights; () for none.
        seed: of the random weights.
    """
    cfg = cfg.clone()
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.05
    cfg.TEST.DETECTIONS_PER_IMAGE = 5
    torch.manual_seed(seed)
    model = find_much(build_model(cfg))
    folder.mkdir(exist_ok=True)
    small = SmallModel(folder / "config.yaml", folder / "model.pth")
    cfg.MODEL.WEIGHTS = ""
    small.config_file.write_text(cfg.dump())
    checkpoint = {"model": model.state_dict()}
    torch.save({**checkpoint, "classes": list(classes)} if classes else checkpoint, small.weights)
    return small


def find_much(model: nn.Module) -> nn.Module:
    """Give a model's last layers weights that make it find something of every class, in place."""
    for name in ("cls_score", "bbox_pred"):
        nn.init.normal_(model.roi_heads.box_predictor.get_submodule(name).weight, std=0.05)
    if model.roi_heads.mask_on:
        nn.init.normal_(model.roi_heads.mask_head.predictor.weight, std=0.1)
    return model
