"""Convolutions fused with addition and ReLU by oneDNN, for inference.

Residual blocks and lateral connections add up the largest feature maps of the network. A
convolution that accumulates into the other summand needs no memory for its output, which the
operating system would have to clear, and saves passes over the maps.
"""

from typing import Any

import torch
from detectron2.layers import Conv2d
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock, CNNBlockBase
from torch import Tensor, nn
from torch.nn import functional as F

from panet.compat import onednn
from panet.utils.cpu import HAS_ONEDNN

from .convolution import is_improved
from .tracing import is_tracing


def can_fuse(conv: Conv2d, x: Tensor) -> bool:
    """Whether oneDNN's fused operations can compute ``conv(x)`` for ``x`` of (N, C, H, W)."""
    return (
        x.is_cpu
        and not is_tracing()
        and x.dtype == conv.weight.dtype
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.numel() > 0
        and conv.norm is None
        and conv.activation is None
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and HAS_ONEDNN
    )


def convolve_onto(conv: Conv2d, x: Tensor, total: Tensor) -> Tensor:
    """Compute ``conv(x) + total``.

    Args:
        conv: convolution, with or without norm.
        x: (N, C, H, W).
        total: (N, O, H', W'); may be overwritten.

    Returns:
        (N, O, H', W').
    """
    if can_fuse(conv, x) and total.dtype == x.dtype:
        return onednn.add_conv2d_(total, conv, x)
    return conv(x).add_(total)


class FusedResidualBlock(CNNBlockBase):
    """detectron2's ``BasicBlock`` or ``BottleneckBlock`` with fused operations, for inference.

    It contains the children of the original block under the same names.
    """

    def __init__(self, block: BasicBlock | BottleneckBlock, may_overwrite_input: bool) -> None:
        """
        Args:
            block: original block, with norms folded into the convolutions.
            may_overwrite_input: whether no other module reads the input of this block.
        """
        super().__init__(block.in_channels, block.out_channels, block.stride)
        for name, child in block.named_children():
            self.add_module(name, child)
        self.shortcut: Any = block.shortcut
        self._convs = [name for name in ("conv1", "conv2", "conv3") if hasattr(block, name)]
        self._may_overwrite_input = may_overwrite_input

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (N, C, H, W).
        """
        *first, last = (getattr(self, name) for name in self._convs)
        output = x
        for conv in first:
            output = _conv_relu(conv, output)
        shortcut = x if self.shortcut is None else self.shortcut(x)
        in_place = self.shortcut is not None or self._may_overwrite_input
        if in_place and can_fuse(last, output) and shortcut.dtype == output.dtype:
            return onednn.add_conv2d_(shortcut, last, output, relu=True)
        return F.relu_(last(output).add_(shortcut))


def fuse_residual_blocks(model: nn.Module) -> None:
    """Replace residual blocks without norms with :class:`FusedResidualBlock`, in place."""
    for stage in list(model.modules()):
        if not isinstance(stage, nn.Sequential):
            continue
        for index, block in enumerate(stage):
            if type(block) in (BasicBlock, BottleneckBlock) and _has_no_norms(block):
                # The input of the first block may be an output of the backbone.
                stage[index] = FusedResidualBlock(block, may_overwrite_input=index > 0)


def _has_no_norms(block: nn.Module) -> bool:
    return all(conv.norm is None for conv in block.modules() if isinstance(conv, Conv2d))


def _conv_relu(conv: Conv2d, x: Tensor) -> Tensor:
    if not can_fuse(conv, x) or is_improved(x, conv):
        return F.relu_(conv(x))
    return onednn.relu_of_conv2d(conv, x)
