"""SGD and AdamW."""

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer as build_sgd
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

from panet.modeling.backbones.timm import TimmBackbone
from panet.utils.choices import check_choice


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that ``SOLVER.OPTIMIZER`` names, with detectron2's parameter groups.

    With AdamW, the parameters of a timm backbone that are neither a layer's weight nor its bias,
    such as position embeddings and layer scales, decay by ``SOLVER.WEIGHT_DECAY_NORM``.

    Raises:
        ValueError: if it is neither "SGD" nor "AdamW".
    """
    check_choice("SOLVER.OPTIMIZER", cfg.SOLVER.OPTIMIZER, ("SGD", "AdamW"))
    if cfg.SOLVER.OPTIMIZER == "SGD":
        return build_sgd(cfg, model)
    special = {
        name.rpartition(".")[2]
        for module in model.modules()
        if isinstance(module, TimmBackbone)
        for name, _ in module.named_parameters()
    } - {"weight", "bias"}
    params = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        overrides={name: {"weight_decay": cfg.SOLVER.WEIGHT_DECAY_NORM} for name in special},
    )
    adamw = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
    return adamw(params, lr=cfg.SOLVER.BASE_LR, fused=True)
