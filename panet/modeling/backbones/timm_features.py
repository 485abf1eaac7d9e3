"""Feature extraction with timm models: output strides, image sizes and trainable parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from panet.utils.choices import closest
from panet.utils.errors import DownloadError, UserError

# Arguments that enable images of any size. Every family of models accepts at most one of them.
_ANY_SIZE_ARGUMENTS: tuple[dict[str, Any], ...] = (
    {},
    {"strict_img_size": False},
    {"dynamic_img_size": True},
)


@dataclass(frozen=True)
class TimmPlan:
    """How to extract the features of a pyramid from a timm model.

    Attributes:
        arguments: arguments to build the model with.
        channels: channels of the features by stride, from fine to coarse.
        divisor: the height and width of images must be multiples of this number.
        trained: names of the parameters to train. These are the parameters that the features
            depend on, without those of the frozen stages. All others would get no gradient.
    """

    arguments: dict[str, Any]
    channels: dict[int, int]
    divisor: int
    trained: frozenset[str]


def pretrained_config(name: str, overlay: Mapping[str, Any] | None = None) -> Any:
    """Return timm's ``PretrainedCfg`` of a model, e.g. its image mean and std and weight URL.

    Args:
        name: model name with or without the tag of its weights.
        overlay: entries to replace.

    Raises:
        UserError: if timm is not installed or does not have the model or the tag.
    """
    timm = import_timm()
    architecture, _, tag = name.partition(".")
    if name not in timm.list_pretrained() and (tag or not timm.is_model(architecture)):
        close = timm.list_pretrained(f"{architecture}.*") or closest(name, timm.list_models())
        raise UserError(
            f"MODEL.TIMM.NAME is {name!r}, which timm {timm.__version__} does not have; the "
            f"closest names are {', '.join(close)}."
        )
    return timm.models.resolve_pretrained_cfg(name, pretrained_cfg_overlay=dict(overlay or {}))


def plan_features(
    name: str,
    arguments: Mapping[str, Any],
    strides: Sequence[int],
    out_indices: Sequence[int],
    freeze_at: int,
) -> TimmPlan:
    """Find out how to extract features of the given strides from images of any size.

    The model is run on the meta device, which needs neither memory nor weights.

    Args:
        name: model name.
        arguments: arguments to build the model with, including ``in_chans``.
        strides: required strides.
        out_indices: indices of the features to use; see :class:`TimmBackbone`.
        freeze_at: see :class:`TimmBackbone`.

    Raises:
        UserError: if timm does not have the model, the arguments or the indices, or if the model
            has no features of these strides or only supports images of one size.
    """
    image_size = pretrained_config(name, arguments.get("pretrained_cfg_overlay")).input_size[-1]
    try:
        feature_info = _build_on_meta(name, arguments).feature_info.info
    except Exception as error:
        raise UserError(
            f"MODEL.TIMM.NAME {name} with MODEL.TIMM.ARGUMENTS {dict(arguments)} cannot be built "
            f"as a feature extractor: {error}"
        ) from error
    indices = _choose_indices(name, feature_info, strides, out_indices)
    first_stage = feature_info[next(iter(indices.values()))]["module"]
    strides = sorted(strides)
    divisors = [d for d in range(32, image_size + 1, 32) if d == 32 or image_size % d == 0]
    first_error: Exception | None = None
    for any_size in _ANY_SIZE_ARGUMENTS:
        all_arguments = {**arguments, **any_size, "out_indices": tuple(indices.values())}
        try:
            model = _build_on_meta(name, all_arguments)
        except TypeError:
            continue  # unknown argument
        for divisor in divisors:
            try:
                features = _run_on_meta(model, list(indices), divisor, arguments["in_chans"])
            except Exception as error:  # models raise different errors for unsupported sizes
                first_error = first_error or error
                continue
            return TimmPlan(
                {**all_arguments, "out_indices": tuple(indices[stride] for stride in strides)},
                {stride: features[stride].shape[1] for stride in strides},
                divisor,
                _parameters_of(model, [features[stride] for stride in strides])
                - _frozen_parameters(model, features, first_stage, freeze_at),
            )
    raise UserError(
        f"MODEL.TIMM.NAME {name} cannot be used as a backbone, because it does not support images "
        f"of any size ({str(first_error) or type(first_error).__name__}); choose another model."
    )


def build_features(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> nn.Module:
    """Build timm's feature extractor. Loading its weights never executes code in their file.

    Args:
        name: model name.
        pretrained: load weights from timm's cache or from the network.
        arguments: additional arguments of the model.

    Raises:
        UserError: if timm has no weights for the model, or if they do not match the arguments.
        DownloadError: if the weights are not in the cache and cannot be downloaded.
    """
    timm = import_timm()
    source = pretrained_config(name, arguments.get("pretrained_cfg_overlay"))
    if pretrained and not source.has_weights:
        tags = timm.list_pretrained(f"{source.architecture}.*")
        raise UserError(
            f"timm has no weights for MODEL.TIMM.NAME {name}; set MODEL.TIMM.PRETRAINED False, or "
            f"choose a name with weights{', such as ' + tags[0] if tags else ''}."
        )
    try:
        return timm.create_model(name, pretrained, features_only=True, **arguments)
    except OSError as error:
        where = source.file or (
            f"https://huggingface.co/{source.hf_hub_id}" if source.hf_hub_id else source.url
        )
        raise DownloadError(
            f"The weights of MODEL.TIMM.NAME {name} are not in timm's cache and cannot be loaded "
            f"from {where} ({error}); set MODEL.TIMM.PRETRAINED False to start from random "
            "weights, or set MODEL.WEIGHTS to a copy of the file."
        ) from error
    except (RuntimeError, UnpicklingError) as error:
        if not pretrained:
            raise
        raise UserError(
            f"The weights of MODEL.TIMM.NAME {name} cannot be loaded: {error}"
        ) from error


def to_nchw(model: nn.Module, features: Sequence[Tensor]) -> list[Tensor]:
    """Convert the features of timm's extractor to (N, C, H, W)."""
    if str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC"):
        return [feature.permute(0, 3, 1, 2) for feature in features]
    return list(features)


def import_timm() -> Any:
    """Import timm, an optional dependency.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise UserError("MODEL.TIMM needs timm, which is not installed: pip install timm") from None
    return timm


def _build_on_meta(name: str, arguments: Mapping[str, Any]) -> Any:
    create = partial(import_timm().create_model, name, features_only=True, **arguments)
    try:
        with torch.device("meta"):
            return create()
    except RuntimeError:  # some models compute with initial values, which meta tensors lack
        return create().to("meta")


def _choose_indices(
    name: str,
    feature_info: Sequence[Mapping[str, Any]],
    strides: Sequence[int],
    out_indices: Sequence[int],
) -> dict[int, int]:
    """Map the required strides, and all strides from 2 up to the coarsest, to feature indices."""
    if any(not 0 <= index < len(feature_info) for index in out_indices):
        raise UserError(
            f"MODEL.TIMM.OUT_INDICES is {tuple(out_indices)}, but {name} has features 0 to "
            f"{len(feature_info) - 1}."
        )
    # Features without a module cannot be extracted.
    available = {
        i: feature["reduction"] for i, feature in enumerate(feature_info) if feature["module"]
    }
    chosen = {stride: index for index, stride in available.items()}
    chosen.update({available[index]: index for index in out_indices if index in available})
    if not set(strides) <= set(chosen):
        raise UserError(
            f"MODEL.TIMM.NAME {name} has features of strides "
            f"{', '.join(map(str, sorted(chosen)))}, but MODEL.FPN.IN_FEATURES needs "
            f"{', '.join(map(str, strides))}."
        )
    return {
        stride: index
        for stride, index in sorted(chosen.items())
        if stride in strides or 2 <= stride < max(strides)
    }


def _run_on_meta(
    model: nn.Module, strides: Sequence[int], divisor: int, channels: int
) -> dict[int, Tensor]:
    """Return the features of a batch by stride."""
    height, width = 5 * divisor, 7 * divisor  # neither square nor the model's own size
    with torch.enable_grad():
        outputs = to_nchw(model, model(torch.zeros(2, channels, height, width, device="meta")))
    for stride, feature in zip(strides, outputs, strict=True):
        missing = (height // stride - feature.shape[2], width // stride - feature.shape[3])
        if not all(0 <= m < 8 for m in missing):
            raise ValueError(f"its feature of stride {stride} is {tuple(feature.shape)}")
    return dict(zip(strides, outputs))


def _frozen_parameters(
    model: nn.Module, features: Mapping[int, Tensor], first_stage: str, freeze_at: int
) -> frozenset[str]:
    """Return the names of the parameters that ``freeze_at`` freezes.

    Args:
        model: feature extractor.
        features: features by stride, from fine to coarse.
        first_stage: module of the finest feature.
        freeze_at: see :class:`TimmBackbone`.
    """
    finest = min(features)
    if freeze_at != 1 or finest == 2:
        return _parameters_of(model, [f for s, f in features.items() if s <= 2**freeze_at])
    # The stem is everything before the first stage. timm's extractors replace "." in module names
    # with "_".
    stage = f".{first_stage}.".replace("_", ".")
    names = _parameters_of(model, [features[finest]])
    return frozenset(name for name in names if stage not in f".{name}".replace("_", "."))


def _parameters_of(model: nn.Module, features: Sequence[Tensor]) -> frozenset[str]:
    """Return the names of the parameters that get a gradient from any of the features."""
    if not features:
        return frozenset()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(
        [feature.sum() for feature in features],
        list(named.values()),
        retain_graph=True,
        allow_unused=True,
    )
    return frozenset(name for name, grad in zip(named, gradients) if grad is not None)
