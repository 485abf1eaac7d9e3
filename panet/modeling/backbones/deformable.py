"""Deformable convolutions in a ResNet, without detectron2's compiled extension."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec
from detectron2.modeling import build_resnet_backbone
from detectron2.modeling.backbone.resnet import BottleneckBlock, DeformBottleneckBlock, ResNet
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from panet.utils.errors import UserError
from panet.utils.modules import convert_convolution, replace_modules

STAGES = ("res2", "res3", "res4", "res5")
"""What the values of ``MODEL.RESNETS.DEFORM_ON_PER_STAGE`` stand for."""


class DeformConv(Conv2d):
    """detectron2's ``DeformConv`` and ``ModulatedDeformConv`` by torchvision's operator.

    It computes in single precision at least: torchvision's kernel for the CPU takes no bfloat16,
    and positions are not to be rounded further.
    """

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """
        Args:
            x: (N, C, H, W).
            offset: (N, G * K * 2, H', W') for G groups of input channels and K positions of the
                kernel: how many pixels further down, then further right, a position samples.
            mask: (N, G * K, H', W'), what the samples are multiplied by; None for 1.

        Returns:
            (N, out_channels, H', W') in the dtype of ``x``.
        """
        exact = torch.promote_types(x.dtype, torch.float32)
        output: Tensor = deform_conv2d(
            x.to(exact),
            offset.to(exact),
            self.weight.to(exact),
            None if self.bias is None else self.bias.to(exact),
            self.stride,
            self.padding,
            self.dilation,
            None if mask is None else mask.to(exact),
        ).to(x.dtype)
        if self.norm is not None:
            output = self.norm(output)
        return output if self.activation is None else self.activation(output)


class DeformBlock(DeformBottleneckBlock):
    """detectron2's ``DeformBottleneckBlock`` with a :class:`DeformConv`."""

    def __init__(self, block: BottleneckBlock, modulated: bool, num_groups: int) -> None:
        """
        Args:
            block: what to take the convolutions from.
            modulated, num_groups: see :func:`make_deformable`.

        Raises:
            UserError: if the channels cannot be divided into so many groups.
        """
        # The superclass would build layers that need detectron2's extension.
        CNNBlockBase.__init__(self, block.in_channels, block.out_channels, block.stride)
        self.deform_modulated = modulated
        self.shortcut: Any = block.shortcut
        self.conv1 = block.conv1
        self.conv2 = convert_convolution(block.conv2, DeformConv)
        self.conv3 = block.conv3
        self.conv2_offset = _offset_conv(block.conv2, modulated, num_groups)


def build_resnet(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """detectron2's ``build_resnet_backbone``, for which deformable stages need no compilation.

    Args:
        cfg: keys ``MODEL.RESNETS`` and ``MODEL.BACKBONE.FREEZE_AT``.
        input_shape: channels of the images.

    Raises:
        UserError: if a ``DEFORM_*`` key does not fit the network.
    """
    options = cfg.MODEL.RESNETS
    if len(options.DEFORM_ON_PER_STAGE) != len(STAGES):
        raise UserError(
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE is {options.DEFORM_ON_PER_STAGE}; it must have one "
            f"value for each of {', '.join(STAGES)}."
        )
    plain_cfg = cfg.clone()
    plain_cfg.defrost()
    plain_cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False] * len(STAGES)
    resnet = build_resnet_backbone(plain_cfg, input_shape)
    # The last stages are not there if nothing reads them.
    stages = [
        stage
        for stage, deformable in zip(STAGES, options.DEFORM_ON_PER_STAGE)
        if deformable and stage in resnet.stage_names
    ]
    return make_deformable(resnet, stages, options.DEFORM_MODULATED, options.DEFORM_NUM_GROUPS)


def make_deformable(
    resnet: ResNet, stages: Sequence[str], modulated: bool = False, num_groups: int = 1
) -> ResNet:
    """Make the 3x3 convolutions of some stages deformable.

    Each gets a convolution beside it that predicts the offsets, of zeros at first. Parameters are
    named as detectron2 names them, those that are there already stay the same objects, and what
    is frozen stays frozen.

    Args:
        resnet: with bottleneck blocks in these stages, which are replaced.
        stages: from :data:`STAGES`.
        modulated: whether to predict masks too, as the second version of deformable convolutions.
        num_groups: into how many groups to divide the input channels, each with its own offsets.

    Returns:
        ``resnet`` itself.

    Raises:
        UserError: if a block is of another kind, or its channels cannot be divided so.
    """
    for name in stages:
        stage: Any = resnet.get_submodule(name)
        for block in stage:
            if not isinstance(block, BottleneckBlock):
                raise UserError(
                    f"MODEL.RESNETS.DEFORM_ON_PER_STAGE is True for {name}, which has no "
                    "bottleneck blocks; choose a MODEL.RESNETS.DEPTH of 50 or more."
                )
        replace_modules(
            stage,
            lambda block: (
                DeformBlock(block, modulated, num_groups)
                if isinstance(block, BottleneckBlock)
                else None
            ),
        )
    return resnet


def _offset_conv(conv: Any, modulated: bool, num_groups: int) -> nn.Module:
    if num_groups < 1 or conv.in_channels % num_groups != 0:
        raise UserError(
            f"MODEL.RESNETS.DEFORM_NUM_GROUPS is {num_groups}; it must divide the "
            f"{conv.in_channels} channels of a deformable convolution."
        )
    height, width = conv.kernel_size
    offset_conv: nn.Module = Conv2d(
        conv.in_channels,
        num_groups * height * width * (3 if modulated else 2),
        kernel_size=conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
    )
    for parameter in offset_conv.parameters():
        nn.init.zeros_(parameter)
    return offset_conv.to(conv.weight).requires_grad_(conv.weight.requires_grad)
