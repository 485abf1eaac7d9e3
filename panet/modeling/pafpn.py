"""Path Aggregation FPN: an FPN with bottom-up path augmentation (PANet, section 3.1)."""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from panet.utils.choices import check_choice

from .backbones.deformable import build_resnet
from .backbones.timm import build_timm_backbone
from .cpu.fused import convolve_onto
from .norms import Norm, check_norm


class TopBlock(Protocol):
    """Interface of detectron2's ``LastLevelMaxPool`` and ``LastLevelP6P7``."""

    num_levels: int
    in_feature: str

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        """Compute the extra levels, each at half the resolution of the previous one."""


class PAFPN(FPN):
    """Path Aggregation FPN: an FPN followed by a bottom-up path (PANet, section 3.1).

    The finest level is passed through, ``N2 = P2``. Every coarser level is computed as
    ``N(i+1) = act(conv3x3(act(conv3x3_stride2(N(i))) + P(i+1)))``, where ``act`` is the optional
    normalization followed by ReLU. Extra levels are computed from the outputs of this path, not
    from those of FPN.

    Outputs keep FPN's names ("p2", "p3", ...), so this class can replace FPN in any detectron2
    model. Shared parameters keep FPN's names as well, so FPN checkpoints can be loaded.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        norm: str = "",
        top_block: TopBlock | None = None,
        fuse_type: str = "sum",
        square_pad: int = 0,
        path_norm: str = "",
        path_bias: bool = False,
    ) -> None:
        """
        Args:
            bottom_up, in_features, out_channels, norm, fuse_type, square_pad: see
                :class:`detectron2.modeling.FPN`.
            top_block: computes extra levels after the coarsest one, e.g. ``LastLevelMaxPool()``.
                Its ``in_feature`` must be an output of the bottom-up path, e.g. "p5".
            path_norm: normalization of the convolutions in the bottom-up path.
            path_bias: add a bias to these convolutions even if they are normalized. Without
                normalization they always have a bias.

        Raises:
            UserError: if a norm is unknown, or if ``top_block.in_feature`` is not an output.
        """
        fpn_norm = check_norm("MODEL.FPN.NORM", norm)
        pan_norm = check_norm("MODEL.PAFPN.NORM", path_norm)
        # No top block here: FPN would apply it to its own coarsest level.
        super().__init__(
            bottom_up, in_features, out_channels, fpn_norm, None, fuse_type, square_pad
        )
        levels = self._out_features
        if top_block is not None:
            check_choice("top_block.in_feature", top_block.in_feature, levels)
        self.path_top_block: TopBlock | None = top_block
        stage = int(math.log2(self._out_feature_strides[levels[-1]]))
        count = 0 if top_block is None else top_block.num_levels
        self._extra_levels = [f"p{stage + i}" for i in range(1, count + 1)]
        self.path_downsample = nn.ModuleDict(
            {name: _path_conv(out_channels, pan_norm, path_bias, stride=2) for name in levels[:-1]}
        )
        self.path_output = nn.ModuleDict(
            {name: _path_conv(out_channels, pan_norm, path_bias, stride=1) for name in levels[1:]}
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """
        Args:
            x: images, (N, 3, H, W). H and W must be multiples of ``size_divisibility``.

        Returns:
            Feature maps by name, from fine to coarse, each
            (N, out_channels, H / stride, W / stride).
        """
        features = self.top_down(self.bottom_up(x))
        self.augment(features)
        if self.path_top_block is not None:
            extra = self.path_top_block(features[self.path_top_block.in_feature])
            for name, level in zip(self._extra_levels, extra):
                features[name] = level
        return features

    def top_down(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute FPN's levels.

        Args:
            x: backbone features by name.

        Returns:
            P2, P3, ... by name, from fine to coarse.
        """
        merged = x[self.in_features[-1]]
        levels: list[Tensor] = []
        for index, (lateral, output) in enumerate(zip(self.lateral_convs, self.output_convs)):
            if index == 0:
                merged = lateral(merged)
            else:
                features = x[self.in_features[-index - 1]]
                upsampled = F.interpolate(merged, scale_factor=2.0, mode="nearest")
                if torch.jit.is_scripting():
                    merged = lateral(features) + upsampled
                else:
                    merged = convolve_onto(lateral, features, upsampled)
                if self._fuse_type == "avg":
                    merged = merged / 2
            levels.insert(0, output(merged))
        return {name: levels[index] for index, name in enumerate(self._out_features)}

    def augment(self, features: dict[str, Tensor]) -> None:
        """Replace FPN's levels P2, P3, ... with N2, N3, ... in place.

        Args:
            features: FPN's levels by name, from fine to coarse.
        """
        finer = features[self._out_features[0]]
        for downsample, (name, output) in zip(
            self.path_downsample.values(), self.path_output.items()
        ):
            finer = output(downsample(finer) + features[name])
            features[name] = finer

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of every output, from fine to coarse."""
        shapes = super().output_shape()
        coarsest = shapes[self._out_features[-1]]
        for i, name in enumerate(self._extra_levels, start=1):
            shapes[name] = ShapeSpec(channels=coarsest.channels, stride=coarsest.stride * 2**i)
        return shapes


def _path_conv(channels: int, norm: Norm, bias: bool, stride: int) -> Conv2d:
    conv = Conv2d(
        channels,
        channels,
        kernel_size=3,
        stride=stride,
        padding=1,
        bias=bias or norm == "",
        norm=get_norm(norm, channels),
        activation=nn.ReLU(),
    )
    weight_init.c2_xavier_fill(conv)
    return conv


def build_pyramid(
    cfg: CfgNode, bottom_up: Backbone, pyramid: type[PAFPN], top_block: TopBlock
) -> PAFPN:
    """Build a pyramid on a backbone from a config.

    Args:
        cfg: config with ``MODEL.FPN`` and ``MODEL.PAFPN``.
        bottom_up: backbone with the outputs ``MODEL.FPN.IN_FEATURES``.
        pyramid: :class:`PAFPN` or a subclass.
        top_block: see :class:`PAFPN`.
    """
    return pyramid(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
        path_norm=cfg.MODEL.PAFPN.NORM,
        path_bias=cfg.MODEL.PAFPN.CONV_BIAS,
    )


@BACKBONE_REGISTRY.register()
def build_resnet_pafpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> PAFPN:
    """Build a ResNet with PAFPN, where "p6" is a stride-2 max pooling of "p5" (the paper's N5)."""
    return build_pyramid(cfg, build_resnet(cfg, input_shape), PAFPN, LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_resnet_pafpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> PAFPN:
    """Build a ResNet with PAFPN and RetinaNet's convolutional "p6" and "p7" on top of "p5"."""
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    top_block = LastLevelP6P7(channels, channels, "p5")
    return build_pyramid(cfg, build_resnet(cfg, input_shape), PAFPN, top_block)


@BACKBONE_REGISTRY.register()
def build_timm_pafpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> PAFPN:
    """Build a timm model with PAFPN, where "p6" is a stride-2 max pooling of "p5"."""
    return build_pyramid(cfg, build_timm_backbone(cfg, input_shape), PAFPN, LastLevelMaxPool())
