"""Build a model from a config and optimize its layers for speed and memory."""

from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.modeling import build_model as build_plain_model
from detectron2.utils import comm
from torch import nn

from panet.compat.detectron2_batch_norm import PreciseNaiveSyncBatchNorm
from panet.config_device import replace_cuda_only_norms
from panet.utils.modules import replace_modules, share_state

from .box_head import PANetBoxHead
from .cpu.first_layers import FastFullyConnected
from .cpu.group_norm import ContiguousGroupNorm, convert_group_norms
from .cpu.layers import activate_in_place, fold_frozen_norms, speed_up_convolutions
from .fully_connected import FullyConnected
from .mask_head import PANetMaskHead
from .pooler import AllLevelPooler, FastAllLevelPooler

# Small enough that the allocator reuses the memory of the features instead of requesting new
# memory, which the operating system would have to clear.
_BOX_ROIS_AT_A_TIME = 256
# Upsampled maps of this many RoIs with 256 channels take a few megabytes and fit into the cache.
_MASK_ROIS_AT_A_TIME = 16


def build_model(cfg: CfgNode) -> nn.Module:
    """Build a model with detectron2's ``build_model`` and optimize it with :func:`lay_out`.

    Feature maps are channels-last if ``MODEL.CHANNELS_LAST`` is set. If several processes train
    on a CPU, norms that can only be synchronized on CUDA are replaced.

    Args:
        cfg: the full config.

    Returns:
        The model in training mode. Weights are random, except those of a pretrained timm backbone.
    """
    if comm.get_world_size() > 1 and torch.device(cfg.MODEL.DEVICE).type == "cpu":
        cfg = cfg.clone()
        cfg.defrost()
        replace_cuda_only_norms(cfg)
    return lay_out(build_plain_model(cfg), cfg.MODEL.CHANNELS_LAST)


def lay_out(model: nn.Module, channels_last: bool) -> nn.Module:
    """Replace layers of a model with equivalent ones that need less time and memory.

    The norms of detectron2 that are inaccurate in bfloat16 are replaced too.

    Keys and values of ``state_dict`` do not change.

    Args:
        model: model to modify in place.
        channels_last: use channels-last feature maps.

    Returns:
        ``model``, or its replacement if ``model`` itself is such a layer.
    """
    activate_in_place(model)
    model = replace_modules(model, _precise_norm)
    model = speed_up_heads(fold_frozen_norms(model), FastFullyConnected.of)
    if channels_last:
        model = convert_group_norms(speed_up_convolutions(model), ContiguousGroupNorm)
        model = model.to(memory_format=torch.channels_last)
    return model


def _precise_norm(norm: nn.Module) -> nn.Module | None:
    if type(norm) is not NaiveSyncBatchNorm:
        return None
    with torch.device("meta"):  # allocates nothing
        precise = PreciseNaiveSyncBatchNorm.like(norm)
    return share_state(precise, norm)


def speed_up_heads(model: nn.Module, convert: Callable[[FullyConnected], nn.Module]) -> nn.Module:
    """Replace poolers and fc layers of the RoI heads with faster ones, and compute RoIs in chunks.

    Args:
        model: model to modify in place.
        convert: function that returns the replacement of a fully-connected layer.

    Returns:
        ``model``, or its replacement if ``model`` itself is such a layer.
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
