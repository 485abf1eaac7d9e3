"""Optimizers beside detectron2's SGD."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer as build_sgd
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import Tensor, nn

from panet.modeling.choices import check_choice
from panet.modeling.timm_backbone import TimmBackbone


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that ``SOLVER.OPTIMIZER`` names, with detectron2's parameter groups.

    For AdamW, positional biases, layer scales and whatever else is neither weight nor bias of a
    layer in a timm backbone decay like norms, by ``SOLVER.WEIGHT_DECAY_NORM``.

    Raises:
        ValueError: if it is neither "SGD" nor "AdamW".
    """
    check_choice("SOLVER.OPTIMIZER", cfg.SOLVER.OPTIMIZER, ("SGD", "AdamW"))
    if cfg.SOLVER.OPTIMIZER == "SGD":
        return build_sgd(cfg, model)
    free = {
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
        overrides={name: {"weight_decay": cfg.SOLVER.WEIGHT_DECAY_NORM} for name in free},
    )
    adamw = maybe_add_gradient_clipping(cfg, ChannelsLastAdamW)
    return adamw(params, lr=cfg.SOLVER.BASE_LR, fused=True)


class ChannelsLastAdamW(torch.optim.AdamW):
    """``AdamW`` that updates channels-last weights where they are.

    On a CPU, the fused update of PyTorch's own copies whatever is not contiguous, which takes
    longer than the update itself. As (N, H, W, C) these weights are contiguous.
    """

    def _init_group(self, group: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        result = super()._init_group(group, *args, **kwargs)
        # The weights that have gradients, these and the averages of each, in lists of one order.
        lists = [values for values in args if isinstance(values, list) and values]
        for index, of_one_weight in enumerate(zip(*lists)):
            maps = [tensor.dim() == 4 for tensor in of_one_weight]
            if all(_is_channels_last(t) for t, is_map in zip(of_one_weight, maps) if is_map):
                for values, is_map in zip(lists, maps):
                    if is_map:
                        values[index] = values[index].permute(0, 2, 3, 1)
        return result


def _is_channels_last(tensor: Tensor) -> bool:
    channels_last = tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor.is_cpu and channels_last and not tensor.is_contiguous()
