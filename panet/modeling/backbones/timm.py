"""Networks of timm as backbones, alone and under the pyramid."""

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import NaiveSyncBatchNorm, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torch.nn import functional as F

from panet.utils.choices import check_choice
from panet.utils.modules import replace_modules, share_state

from .timm_features import build_features, import_timm, plan_features, pretrained_config, to_nchw

logger = logging.getLogger(__name__)

TIMM_NORMS = ("", "FrozenBN", "SyncBN", "naiveSyncBN")
"""What the batch norms of a timm model can become; with "" they stay what they are."""


class TimmBackbone(Backbone):
    """A feature extractor of timm, for images of any size.

    Its outputs are called "res2", "res3", ..., of strides 4, 8, ..., as those of detectron2's
    ResNet. Images that the model cannot divide, into windows for example, are padded with zeros
    for it, and its features cropped.
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
            name: of the model, with the tag of its weights or without, e.g.
                "convnext_tiny.fb_in1k"; ``timm.list_models()`` lists them.
            out_features: the outputs.
            pretrained: load timm's weights, from its cache or the network.
            out_indices: indices of timm's features to take instead of the last ones of their
                strides.
            freeze_at: as detectron2's ``FREEZE_AT``: 0 freezes nothing, 1 the stem, n >= 2
                everything that the features of strides up to 2^n are computed from. What is
                frozen stays in evaluation mode.
            norm: see :data:`TIMM_NORMS`.
            arguments: further ones of the timm model.
            in_channels: of the images.

        Raises:
            UserError: if timm is not installed or does not know the name, the arguments or the
                indices; if the model has not the strides of ``out_features`` or takes images of
                one size only; if the norm is unknown; if there are no weights.
            DownloadError: if the weights can neither be found nor downloaded.
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
        self._out_feature_strides = {f"res{int(math.log2(s))}": s for s in plan.channels}
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict(zip(self._out_features, plan.channels.values()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """
        Args:
            x: images, (N, C, H, W), H and W multiples of the coarsest stride.

        Returns:
            Feature maps by name, from fine to coarse, each (N, channels, H / stride, W / stride).
        """
        height, width = x.shape[-2:]
        right, below = -width % self.divisor, -height % self.divisor
        padded = F.pad(x, (0, right, 0, below)) if right or below else x  # padding by 0 copies
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
        """Height and width of the images have to be multiples of it."""
        return max(self._out_feature_strides.values())


def _fill_borders(feature: Tensor, height: int, width: int) -> Tensor:
    """Zeros around a feature map whose network does not pad its convolutions."""
    rows, columns = height - feature.shape[2], width - feature.shape[3]
    if rows == columns == 0:
        return feature
    return F.pad(feature, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


class _NaiveSyncBatchNormAct(NaiveSyncBatchNorm):
    """timm's batch norm with its activation, both its children, synchronized by detectron2."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def _convert_norms(network: nn.Module, norm: str) -> nn.Module:
    # timm's own functions keep the activations that it builds into norms.
    layers = import_timm().layers
    if norm == "FrozenBN":
        network = layers.freeze_batch_norm_2d(network)
    elif norm == "SyncBN":
        network = layers.convert_sync_batchnorm(network)
    elif norm == "naiveSyncBN":
        classes: dict[type, type] = {
            nn.BatchNorm2d: NaiveSyncBatchNorm,
            layers.BatchNormAct2d: _NaiveSyncBatchNormAct,
        }

        def build(old: Any) -> nn.Module | None:
            if type(old) not in classes:
                return None
            with torch.device("meta"):  # parameters that take neither memory nor random numbers
                new = classes[type(old)](
                    old.num_features, old.eps, old.momentum, old.affine, old.track_running_stats
                )
            for name, child in old.named_children():
                new.add_module(name, child)
            return share_state(new, old)

        network = replace_modules(network, build)
    return network


def use_timm_normalization(cfg: CfgNode) -> None:
    """Have images come as the timm model of ``cfg`` was trained with them.

    With ``MODEL.TIMM.OWN_NORMALIZATION`` and one of this file's backbones, ``INPUT.FORMAT``,
    ``MODEL.PIXEL_MEAN`` and ``MODEL.PIXEL_STD`` become the model's own.

    Raises:
        UserError: if timm is not installed or has no such model.
    """
    if cfg.MODEL.BACKBONE.NAME in _BUILDERS and cfg.MODEL.TIMM.OWN_NORMALIZATION:
        cfg.INPUT.FORMAT = "RGB"
        cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = _own_mean_and_std(cfg)


def _own_mean_and_std(cfg: CfgNode) -> tuple[list[float], list[float]]:
    own = pretrained_config(
        cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.ARGUMENTS.get("pretrained_cfg_overlay")
    )
    return _to_pixels(own.mean), _to_pixels(own.std)


def _to_pixels(values: Sequence[float]) -> list[float]:
    return [round(255 * value, 3) for value in values]


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The timm model of ``cfg``.

    Its weights are not loaded if ``MODEL.WEIGHTS`` names others.

    Args:
        cfg: keys ``MODEL.TIMM``, ``MODEL.BACKBONE.FREEZE_AT`` and, for its outputs,
            ``MODEL.FPN.IN_FEATURES``.
        input_shape: channels of the images.
    """
    options = cfg.MODEL.TIMM
    if options.OWN_NORMALIZATION:
        mean, std = _own_mean_and_std(cfg)
        found = (cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
        if found != ("RGB", mean, std):
            logger.warning(
                "%s was trained with INPUT.FORMAT RGB, MODEL.PIXEL_MEAN %s and MODEL.PIXEL_STD %s, "
                "which this configuration has not; panet.load_config sets them.",
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


_BUILDERS = (build_timm_backbone.__name__, "build_timm_pafpn_backbone")
