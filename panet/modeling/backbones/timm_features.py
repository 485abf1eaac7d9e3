"""What timm knows about its models, and what it does not: at which sizes they work, and how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from panet.utils.choices import closest
from panet.utils.errors import DownloadError, UserError

# Ways to ask for images of any size. Each is tried, as families of models know one or none.
_ANY_SIZE: tuple[dict[str, Any], ...] = (
    {},
    {"strict_img_size": False},
    {"dynamic_img_size": True},
)


@dataclass(frozen=True)
class TimmPlan:
    """How a timm model gives the features of a pyramid.

    Attributes:
        arguments: what to build the model with.
        channels: of its features, by their stride, from fine to coarse.
        divisor: height and width of the images have to be multiples of it.
        trained: names of the parameters that the features are computed from and that come after
            the frozen stages; the others would get no gradient.
    """

    arguments: dict[str, Any]
    channels: dict[int, int]
    divisor: int
    trained: frozenset[str]


def pretrained_config(name: str, overlay: Mapping[str, Any] | None = None) -> Any:
    """timm's ``PretrainedCfg`` of a model: where its weights are, and its images' mean and std.

    Args:
        name: of the model, with or without the tag of its weights.
        overlay: entries to replace.

    Raises:
        UserError: if timm is not installed or has no such model or tag, with the closest ones.
    """
    timm = import_timm()
    names = timm.list_models() + timm.list_pretrained()
    architecture, _, tag = name.partition(".")
    if name not in names and not (timm.is_model(architecture) and not tag):
        same = timm.list_pretrained(f"{architecture}.*") if timm.is_model(architecture) else []
        close = same or closest(name, timm.list_models())
        raise UserError(
            f"MODEL.TIMM.NAME is {name!r}, which timm {timm.__version__} does not have; the "
            f"closest are {', '.join(close)}."
        )
    return timm.models.resolve_pretrained_cfg(name, pretrained_cfg_overlay=dict(overlay or {}))


def plan_features(
    name: str,
    arguments: Mapping[str, Any],
    strides: Sequence[int],
    out_indices: Sequence[int] = (),
    freeze_at: int = 0,
) -> TimmPlan:
    """Find out how a model gives the features of some strides, for images of any size.

    The model runs on the meta device, which takes neither memory nor weights.

    Args:
        name: of the model.
        arguments: what to build it with.
        strides: those that are needed.
        out_indices: features to take instead of the last ones of their strides.
        freeze_at: 0 to freeze nothing, 1 the stem, n >= 2 all that features up to stride 2^n are
            computed from.

    Raises:
        UserError: if the model is not a feature extractor or not one with these strides, does
            not know the arguments or indices, or takes images of one size only.
    """
    own_size = pretrained_config(name, arguments.get("pretrained_cfg_overlay")).input_size[-1]
    try:
        information = _build_without_memory(name, arguments).feature_info.info
    except Exception as error:
        raise UserError(
            f"MODEL.TIMM.NAME {name} with MODEL.TIMM.ARGUMENTS {dict(arguments)} cannot be built "
            f"as a feature extractor: {error}"
        ) from error
    indices = _choose_indices(name, information, strides, out_indices)
    modules = {stride: information[index]["module"] for stride, index in indices.items()}
    divisors = [d for d in range(32, own_size + 1, 32) if d == 32 or own_size % d == 0]
    refusal: Exception | None = None
    for options in _ANY_SIZE:
        built_with = {**arguments, **options, "out_indices": tuple(indices.values())}
        try:
            model = _build_without_memory(name, built_with)
        except TypeError:
            continue  # it does not know the option
        for divisor in divisors:
            try:
                features = _run_without_memory(
                    model, list(indices), divisor, arguments.get("in_chans", 3)
                )
            except Exception as error:  # each model has its own for sizes that it does not take
                refusal = refusal or error
                continue
            return TimmPlan(
                {**built_with, "out_indices": tuple(indices[stride] for stride in sorted(strides))},
                {stride: features[stride].shape[1] for stride in sorted(strides)},
                divisor,
                _parameters_behind(model, [features[stride] for stride in strides])
                - _frozen_parameters(model, features, modules, freeze_at),
            )
    raise UserError(
        f"MODEL.TIMM.NAME {name} cannot be a detector's backbone: it does not take images of any "
        f"size ({str(refusal) or type(refusal).__name__})."
    )


def build_features(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> nn.Module:
    """timm's feature extractor, whose weights are read without executing what is in their file.

    Args:
        name: of the model.
        pretrained: whether to load its weights, from timm's cache or the network.
        arguments: what else to build it with.

    Raises:
        UserError: if timm has no weights for it, or they do not fit the arguments.
        DownloadError: if they cannot be had.
    """
    timm = import_timm()
    source = pretrained_config(name, arguments.get("pretrained_cfg_overlay"))
    if pretrained and not source.has_weights:
        tags = timm.list_pretrained(f"{source.architecture}.*")
        raise UserError(
            f"timm has no weights for MODEL.TIMM.NAME {name}; set MODEL.TIMM.PRETRAINED False, or "
            f"give a name that has some{', such as ' + tags[0] if tags else ''}."
        )
    try:
        return timm.create_model(name, pretrained, features_only=True, **arguments)
    except OSError as error:
        where = source.file or (
            f"https://huggingface.co/{source.hf_hub_id}" if source.hf_hub_id else source.url
        )
        raise DownloadError(
            f"The weights of MODEL.TIMM.NAME {name} are neither in timm's cache nor can they be "
            f"had from {where} ({error}); set MODEL.TIMM.PRETRAINED False to start from random "
            "weights, or give MODEL.WEIGHTS a copy of the file."
        ) from error
    except (RuntimeError, UnpicklingError) as error:
        if not pretrained:
            raise
        raise UserError(
            f"The weights of MODEL.TIMM.NAME {name} cannot be loaded: {error}"
        ) from error


def to_nchw(model: nn.Module, features: Sequence[Tensor]) -> list[Tensor]:
    """The features of timm's extractor as (N, C, H, W), whatever its own order is."""
    if str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC"):
        return [feature.permute(0, 3, 1, 2) for feature in features]
    return list(features)


def import_timm() -> Any:
    """The package, which is imported only where a timm model is used.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise UserError("timm is not installed, which MODEL.TIMM needs: pip install timm") from None
    return timm


def _build_without_memory(name: str, arguments: Mapping[str, Any]) -> Any:
    create = partial(import_timm().create_model, name, features_only=True, **arguments)
    try:
        with torch.device("meta"):
            return create()
    except RuntimeError:  # of models that compute with what they are initialized with
        return create().to("meta")


def _choose_indices(
    name: str,
    information: Sequence[Mapping[str, Any]],
    strides: Sequence[int],
    out_indices: Sequence[int],
) -> dict[int, int]:
    """By stride, the features that are needed and those that lie between them and the stem."""
    if any(not 0 <= index < len(information) for index in out_indices):
        raise UserError(
            f"MODEL.TIMM.OUT_INDICES is {tuple(out_indices)}, but {name} has features 0 to "
            f"{len(information) - 1}."
        )
    # A feature without a module cannot be had.
    available = {
        i: feature["reduction"] for i, feature in enumerate(information) if feature["module"]
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


def _run_without_memory(
    model: nn.Module, strides: Sequence[int], divisor: int, channels: int
) -> dict[int, Tensor]:
    # Neither square nor the model's own size.
    height, width = 5 * divisor, 7 * divisor
    with torch.enable_grad():
        outputs = to_nchw(model, model(torch.zeros(2, channels, height, width, device="meta")))
    for stride, feature in zip(strides, outputs, strict=True):
        missing = (height // stride - feature.shape[2], width // stride - feature.shape[3])
        if not all(0 <= m < 8 for m in missing):
            raise ValueError(f"its feature of stride {stride} is {tuple(feature.shape)}")
    return dict(zip(strides, outputs))


def _frozen_parameters(
    model: nn.Module, features: Mapping[int, Tensor], modules: Mapping[int, str], freeze_at: int
) -> frozenset[str]:
    frozen = _parameters_behind(model, [f for s, f in features.items() if s <= 2**freeze_at])
    finest = min(features)
    if freeze_at != 1 or finest == 2:
        return frozen
    # The stem is what comes before the first stage, whose name timm's extractors rewrite.
    stage = f".{modules[finest]}.".replace("_", ".")
    first = _parameters_behind(model, [features[finest]])
    return frozenset(name for name in first if stage not in f".{name}".replace("_", "."))


def _parameters_behind(model: nn.Module, features: Sequence[Tensor]) -> frozenset[str]:
    """Names of the parameters that get a gradient from any of the features."""
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
