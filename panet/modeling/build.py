"""Building a configuration's model for the processes and the device that it will run on."""

from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model as build_plain_model
from detectron2.utils import comm
from torch import nn

from panet.utils.device import replace_cuda_only_norms
from panet.utils.modules import replace_modules

from .box_head import PANetBoxHead
from .cpu.first_layers import FastFullyConnected
from .cpu.group_norm import ContiguousGroupNorm, convert_group_norms
from .cpu.layers import activate_in_place, fold_frozen_norms, speed_up_convolutions
from .fully_connected import FullyConnected
from .mask_head import PANetMaskHead
from .pooler import AllLevelPooler, FastAllLevelPooler

# Their features fit into memory that is used again and again, which the system need not clear.
_BOX_ROIS_AT_A_TIME = 256
# As many as keep the upsampled maps of 256 channels within a few megabytes of cache.
_MASK_ROIS_AT_A_TIME = 16


def build_model(cfg: CfgNode) -> nn.Module:
    """detectron2's ``build_model`` with this project's choices of speed, see :func:`lay_out`.

    Feature maps are channels-last if ``MODEL.CHANNELS_LAST``, and where several processes compute
    on the CPU, norms that need CUDA to synchronize are replaced.

    Args:
        cfg: a whole configuration.

    Returns:
        The model, in training mode, with random weights unless its backbone comes with others.
    """
    if comm.get_world_size() > 1 and torch.device(cfg.MODEL.DEVICE).type == "cpu":
        cfg = cfg.clone()
        cfg.defrost()
        replace_cuda_only_norms(cfg)
    return lay_out(build_plain_model(cfg), cfg.MODEL.CHANNELS_LAST)


def lay_out(model: nn.Module, channels_last: bool) -> nn.Module:
    """The same model, of layers that take little memory and time.

    Names and values of ``state_dict`` stay the same.

    Args:
        model: changed in place.
        channels_last: whether its feature maps shall be so.

    Returns:
        ``model``, or what it itself is replaced by.
    """
    activate_in_place(model)
    model = speed_up_heads(fold_frozen_norms(model), FastFullyConnected.of)
    if channels_last:
        model = convert_group_norms(speed_up_convolutions(model), ContiguousGroupNorm)
        model = model.to(memory_format=torch.channels_last)
    return model


def speed_up_heads(model: nn.Module, convert: Callable[[FullyConnected], nn.Module]) -> nn.Module:
    """Have RoIs pooled, and the heads computed, in the fastest way.

    Args:
        model: changed in place.
        convert: what to replace fully-connected layers by.

    Returns:
        ``model``, or what it itself is replaced by.
    """
    for module in model.modules():
        if isinstance(module, PANetBoxHead):
            module.rois_at_a_time = _BOX_ROIS_AT_A_TIME
        elif isinstance(module, PANetMaskHead):
            module.rois_at_a_time = _MASK_ROIS_AT_A_TIME

    def build(module: nn.Module) -> nn.Module | None:
        if type(module) is AllLevelPooler:
            return FastAllLevelPooler.of(module)
        return convert(module) if isinstance(module, FullyConnected) else None

    return replace_modules(model, build)
