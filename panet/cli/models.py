"""Models for commands that look at their layers."""

from detectron2.config import CfgNode
from torch import nn

from panet.checkpoint import build_checkpointer
from panet.deployment.optimize import optimize_from_config
from panet.engine import PANetTrainer


def load_model(cfg: CfgNode) -> nn.Module:
    """Build the model, load ``MODEL.WEIGHTS`` if it is set, and apply ``TEST.OPTIMIZE``."""
    model = PANetTrainer.build_model(cfg).eval()
    build_checkpointer(cfg, model).load(cfg.MODEL.WEIGHTS)
    return optimize_from_config(model, cfg)
