"""Building a configuration's model for the processes and the device that it will run on."""

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model as build_plain_model
from detectron2.utils import comm
from torch import nn

from panet.utils.device import replace_cuda_only_norms

from .cpu.group_norm import train_group_norms_contiguously
from .cpu.layers import activate_in_place, speed_up_convolutions


def build_model(cfg: CfgNode) -> nn.Module:
    """detectron2's ``build_model`` with this project's choices of speed.

    ReLUs overwrite what the convolutions before them computed, feature maps are channels-last if
    ``MODEL.CHANNELS_LAST``, and where several processes compute on the CPU, norms that need CUDA to
    synchronize are replaced.

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
    """The same model, with feature maps that take little memory and time.

    Args:
        model: changed in place.
        channels_last: whether its feature maps shall be so.
    """
    activate_in_place(model)
    if channels_last:
        speed_up_convolutions(model)
        train_group_norms_contiguously(model)
        model = model.to(memory_format=torch.channels_last)
    return model
