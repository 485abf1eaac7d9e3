"""timm models as backbones, with or without a feature pyramid."""

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torch.nn import functional as F

from panet.compat.detectron2_batch_norm import PreciseNaiveSyncBatchNorm
from panet.utils.choices import check_choice
from panet.utils.modules import replace_modules, share_state

from .timm_features import build_features, import_timm, plan_features, pretrained_config, to_nchw

logger = logging.getLogger(__name__)

TIMM_NORMS = ("", "FrozenBN", "SyncBN", "naiveSyncBN", "naiveSyncBN_N")
"""Replacements of the batch norms of a timm model; "" keeps them."""

_BUILDERS = ("build_timm_backbone", "build_timm_pafpn_backbone")


class TimmBackbone(Backbone):
    """A timm feature extractor for images of any size.

    As in detectron2's ResNet, the outputs "res2", "res3", ... have strides 4, 8, .... Images whose
    size the model does not support, for example because it is not a multiple of its window size,
    are padded with zeros, and the features are cropped.
    """

    def __init__(
        self,
        name: str,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        *,
        pretrained: bool = False,
        out_indices: Sequence[int] = (),
        freeze_at: int = 0,
        norm: str = "",
        arguments: Mapping[str, Any] | None = None,
        in_channels: int = 3,
    ) -> None:
        """
        Args:
            name: model name with or without the tag of its weights, e.g.
                "convnext_tiny.fb_in1k"; see ``timm.list_models()``.
            out_features: names of the outputs.
            pretrained: load timm's weights from its cache or from the network.
            out_indices: indices of the timm features to use. For strides without an index, the
                last feature of that stride is used.
            freeze_at: like detectron2's ``FREEZE_AT``: 0 freezes nothing, 1 freezes the stem, and
                n >= 2 freezes all layers that the features of strides up to 2^n are computed
                from. Frozen layers stay in evaluation mode.
            norm: see :data:`TIMM_NORMS`.
            arguments: additional arguments of the timm model.
            in_channels: number of channels of the images.

        Raises:
            UserError: if timm is not installed or does not have the model, the arguments, the
                indices or the weights; if the model lacks a stride of ``out_features`` or only
                supports images of one size; or if the norm is unknown.
            DownloadError: if the weights are not in the cache and cannot be downloaded.
        """
        super().__init__()
        check_choice("MODEL.TIMM.NORM", norm, TIMM_NORMS)
        strides = [2 ** int(feature.removeprefix("res")) for feature in out_features]
        arguments = {**(arguments or {}), "in_chans": in_channels}
        plan = plan_features(name, arguments, strides, out_indices, freeze_at)
        self.name = name
        self.autocast_dtype: torch.dtype | None = None
        self.divisor = plan.divisor
        self.network = build_features(name, pretrained, plan.arguments)
        for parameter_name, parameter in self.network.named_parameters():
            parameter.requires_grad_(parameter_name in plan.trained)
        self.network = _convert_norms(self.network, norm)
        self.train()
        self._out_features = [f"res{int(math.log2(stride))}" for stride in plan.channels]
        self._out_feature_strides = dict(zip(self._out_features, plan.channels))
        self._out_feature_channels = dict(zip(self._out_features, plan.channels.values()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """
        Args:
            x: images, (N, C, H, W). H and W must be multiples of ``size_divisibility``.

        Returns:
            Feature maps by name, from fine to coarse, each (N, channels, H / stride, W / stride).
        """
        height, width = x.shape[-2:]
        right, below = -width % self.divisor, -height % self.divisor
        # Padding by 0 would copy the images.
        padded = F.pad(x, (0, right, 0, below)) if right or below else x
        dtype = self.autocast_dtype
        with torch.autocast(x.device.type, dtype) if dtype is not None else nullcontext():
            features = to_nchw(self.network, self.network(padded))
        outputs = {}
        for (name, stride), feature in zip(self._out_feature_strides.items(), features):
            full = _fill_borders(feature, padded.shape[-2] // stride, padded.shape[-1] // stride)
            outputs[name] = full[:, :, : height // stride, : width // stride]
        return outputs

    def train(self, mode: bool = True) -> "TimmBackbone":
        super().train(mode)
        for module in self.network.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
        return self

    @property
    def size_divisibility(self) -> int:
        """The coarsest stride, which must divide the height and width of the images."""
        return max(self._out_feature_strides.values())


def _fill_borders(feature: Tensor, height: int, width: int) -> Tensor:
    """Pad a feature map with zeros to full size, for networks with unpadded convolutions."""
    rows, columns = height - feature.shape[2], width - feature.shape[3]
    if rows == columns == 0:
        return feature
    return F.pad(feature, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


class _NaiveSyncBatchNormAct(PreciseNaiveSyncBatchNorm):
    """timm's ``BatchNormAct2d``, synchronized by detectron2."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def _convert_norms(network: nn.Module, norm: str) -> nn.Module:
    # timm's functions keep the activations that are part of its norms.
    layers = import_timm().layers
    if norm == "FrozenBN":
        network = layers.freeze_batch_norm_2d(network)
    elif norm == "SyncBN":
        network = layers.convert_sync_batchnorm(network)
    elif norm in ("naiveSyncBN", "naiveSyncBN_N"):
        classes: dict[type, type] = {
            nn.BatchNorm2d: PreciseNaiveSyncBatchNorm,
            layers.BatchNormAct2d: _NaiveSyncBatchNormAct,
        }

        def build(old: Any) -> nn.Module | None:
            if type(old) not in classes:
                return None
            with torch.device("meta"):  # neither allocate nor initialize parameters
                new = classes[type(old)](
                    old.num_features,
                    old.eps,
                    old.momentum,
                    old.affine,
                    old.track_running_stats,
                    stats_mode="N" if norm == "naiveSyncBN_N" else "",
                )
            for name, child in old.named_children():
                new.add_module(name, child)
            return share_state(new, old)

        network = replace_modules(network, build)
    return network


def use_timm_normalization(cfg: CfgNode) -> None:
    """Set the image format, mean and std to those that the timm model was trained with.

    If ``MODEL.TIMM.OWN_NORMALIZATION`` is set and the backbone is a timm model, this sets
    ``INPUT.FORMAT``, ``MODEL.PIXEL_MEAN`` and ``MODEL.PIXEL_STD`` of ``cfg`` in place.

    Raises:
        UserError: if timm is not installed or does not have the model.
    """
    if cfg.MODEL.BACKBONE.NAME in _BUILDERS and cfg.MODEL.TIMM.OWN_NORMALIZATION:
        cfg.INPUT.FORMAT = "RGB"
        cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = _pretrained_mean_and_std(cfg)


def _pretrained_mean_and_std(cfg: CfgNode) -> tuple[list[float], list[float]]:
    """Return the mean and std that the timm model was trained with, in pixel values up to 255."""
    options = cfg.MODEL.TIMM
    pretrained = pretrained_config(options.NAME, options.ARGUMENTS.get("pretrained_cfg_overlay"))
    mean, std = (
        [round(255 * value, 3) for value in values] for values in (pretrained.mean, pretrained.std)
    )
    return mean, std


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Build a timm backbone from a config.

    Pretrained weights are not loaded if ``MODEL.WEIGHTS`` is set.

    Args:
        cfg: config with ``MODEL.TIMM``, ``MODEL.BACKBONE.FREEZE_AT`` and
            ``MODEL.FPN.IN_FEATURES``, the outputs of the backbone.
        input_shape: channels of the images.
    """
    options = cfg.MODEL.TIMM
    if options.OWN_NORMALIZATION:
        mean, std = _pretrained_mean_and_std(cfg)
        if ("RGB", mean, std) != (cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD):
            logger.warning(
                "%s was trained with INPUT.FORMAT RGB, MODEL.PIXEL_MEAN %s and MODEL.PIXEL_STD %s, "
                "but this config has other values; panet.prepare.prepare sets them.",
                *(options.NAME, mean, std),
            )
    return TimmBackbone(
        options.NAME,
        cfg.MODEL.FPN.IN_FEATURES or ("res2", "res3", "res4", "res5"),
        pretrained=options.PRETRAINED and not cfg.MODEL.WEIGHTS,
        out_indices=options.OUT_INDICES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        norm=options.NORM,
        arguments=options.ARGUMENTS,
        in_channels=input_shape.channels,
    )
