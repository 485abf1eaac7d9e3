"""Small untrained models with many detections, and their files."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn


class SmallModel(NamedTuple):
    """A configuration file and matching weights."""

    config_file: Path
    weights: Path


def write_model(
    cfg: CfgNode, folder: Path, classes: Sequence[str] = (), seed: int = 3
) -> SmallModel:
    """Write a model with random weights that detects objects of all classes.

    Args:
        cfg: configuration of the model.
        folder: folder to write to.
        classes: class names to store with the weights; () for none.
        seed: seed of the random weights.
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
    """Reinitialize the last layers so that the model detects every class; modifies it in place."""
    for name in ("cls_score", "bbox_pred"):
        nn.init.normal_(model.roi_heads.box_predictor.get_submodule(name).weight, std=0.05)
    if model.roi_heads.mask_on:
        nn.init.normal_(model.roi_heads.mask_head.predictor.weight, std=0.1)
    return model
