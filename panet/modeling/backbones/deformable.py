"""ResNets with deformable convolutions, without detectron2's compiled extension."""

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
from panet.utils.modules import convert_convolution

STAGES = ("res2", "res3", "res4", "res5")
"""The stages that the values of ``MODEL.RESNETS.DEFORM_ON_PER_STAGE`` refer to."""


class DeformConv(Conv2d):
    """detectron2's ``DeformConv`` and ``ModulatedDeformConv``, based on torchvision's operator.

    It computes in at least single precision, because torchvision's CPU kernel does not support
    bfloat16 and sampling positions should not be rounded further.
    """

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """
        Args:
            x: (N, C, H, W).
            offset: (N, G * K * 2, H', W') for G groups of input channels and K kernel positions:
                vertical, then horizontal offset in pixels of each sample.
            mask: (N, G * K, H', W'), factors of the samples; None means 1.

        Returns:
            (N, out_channels, H', W') in the dtype of ``x``.
        """
        dtype = torch.promote_types(x.dtype, torch.float32)
        output: Tensor = deform_conv2d(
            x.to(dtype),
            offset.to(dtype),
            self.weight.to(dtype),
            None if self.bias is None else self.bias.to(dtype),
            self.stride,
            self.padding,
            self.dilation,
            None if mask is None else mask.to(dtype),
        ).to(x.dtype)
        if self.norm is not None:
            output = self.norm(output)
        return output if self.activation is None else self.activation(output)


class DeformBlock(DeformBottleneckBlock):
    """detectron2's ``DeformBottleneckBlock`` with a :class:`DeformConv`."""

    def __init__(self, block: BottleneckBlock, modulated: bool, num_groups: int) -> None:
        """
        Args:
            block: the block whose convolutions are reused.
            modulated, num_groups: see :func:`make_deformable`.

        Raises:
            UserError: if the input channels are not divisible by ``num_groups``.
        """
        conv: Any = block.conv2
        if num_groups < 1 or conv.in_channels % num_groups != 0:
            raise UserError(
                f"MODEL.RESNETS.DEFORM_NUM_GROUPS is {num_groups}; it must divide the "
                f"{conv.in_channels} channels of a deformable convolution."
            )
        # DeformBottleneckBlock.__init__ would build layers that need detectron2's extension.
        CNNBlockBase.__init__(self, block.in_channels, block.out_channels, block.stride)
        self.deform_modulated = modulated
        self.shortcut: Any = block.shortcut
        self.conv1 = block.conv1
        self.conv2 = convert_convolution(conv, DeformConv)
        self.conv3 = block.conv3
        height, width = conv.kernel_size
        offset_conv = Conv2d(
            conv.in_channels,
            num_groups * height * width * (3 if modulated else 2),
            kernel_size=conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
        )
        for parameter in offset_conv.parameters():
            nn.init.zeros_(parameter)
        offset_conv.to(conv.weight).requires_grad_(conv.weight.requires_grad)
        self.conv2_offset = offset_conv


def build_resnet(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Build detectron2's ResNet, with deformable stages that need no compiled extension.

    Args:
        cfg: config with ``MODEL.RESNETS`` and ``MODEL.BACKBONE.FREEZE_AT``.
        input_shape: channels of the images.

    Raises:
        UserError: if a ``DEFORM_*`` key does not match the network.
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
    # detectron2 does not build stages after the last one in OUT_FEATURES.
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

    Each deformable convolution gets an additional convolution that predicts its offsets, with all
    weights zero at first. Parameter names are those of detectron2. Existing parameters are reused,
    and frozen layers stay frozen.

    Args:
        resnet: network with bottleneck blocks in these stages. It is modified in place.
        stages: names from :data:`STAGES`.
        modulated: also predict masks, as in the second version of deformable convolutions.
        num_groups: number of groups of input channels, each with its own offsets.

    Returns:
        ``resnet``.

    Raises:
        UserError: if a stage has other blocks, or if ``num_groups`` does not divide its channels.
    """
    for name in stages:
        stage: Any = resnet.get_submodule(name)
        for index, block in enumerate(stage):
            if not isinstance(block, BottleneckBlock):
                raise UserError(
                    f"MODEL.RESNETS.DEFORM_ON_PER_STAGE is True for {name}, which has no "
                    "bottleneck blocks; set MODEL.RESNETS.DEPTH to 50 or more."
                )
            stage[index] = DeformBlock(block, modulated, num_groups).train(block.training)
    return resnet
