"""Python configurations: detectron2's ``LazyConfig`` with the keys of this project's trainer."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .utils.choices import closest
from .utils.errors import UserError

_ABSENT = object()


def load_lazy_config(config_file: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Load a Python configuration and apply overrides.

    Use :meth:`panet.engine.LazyTrainer.prepare` to adapt it to this machine.

    Args:
        config_file: path of a Python file in the form of detectron2's ``LazyConfig``.
        overrides: as on the command line: "key=value", or "+key=value" for a key that the file
            does not have.

    Raises:
        UserError: if the file does not exist or has no section ``train``, or an override is
            invalid. Errors raised by the file itself pass through.
    """
    if not Path(config_file).is_file():
        raise UserError(f"There is no configuration file {config_file}.")
    cfg = LazyConfig.load(config_file)
    if not isinstance(cfg.get("train"), DictConfig):
        raise UserError(
            f"{config_file} has no section 'train'; import it as the files of configs/lazy do."
        )
    _add_train_keys(cfg.train)
    for override in overrides:
        _apply(cfg, override)
    return cfg


def _add_train_keys(train: DictConfig) -> None:
    """Add the keys of this project that are missing, as in detectron2's own files."""
    defaults: dict[str, Any] = {
        # Seed of all random numbers, including the order of the data; negative for a random one.
        "seed": -1,
        # Whether feature maps are channels-last, which is faster for most convolutions.
        "channels_last": False,
        # Precision of mixed-precision training: "float16", on CUDA only, or "bfloat16".
        "amp": {"enabled": False, "dtype": "float16"},
        # Number of images whose predictions are written to TensorBoard at every evaluation.
        "eval_pictures": 8,
        # Evaluation with a faster copy of the model, see panet.optimize_for_inference.
        "eval_optimize": {"enabled": False, "dtype": "float32", "compile": False},
        # Transfer of the heads to other classes, see MODEL.CLASS_TRANSFER in panet/config.py.
        "class_transfer": {"source_dataset": "", "synonyms": []},
    }
    train.merge_with(OmegaConf.merge(defaults, train))


def dataset_names(cfg: DictConfig, loader: str) -> list[str]:
    """Return the dataset names of a loader; empty if its ``dataset`` has no ``names``.

    Args:
        cfg: the full configuration.
        loader: "train" or "test".
    """
    names = OmegaConf.select(cfg, f"dataloader.{loader}.dataset.names", default=[])
    return [names] if isinstance(names, str) else list(names)


def _apply(cfg: DictConfig, text: str) -> None:
    override = _parse(text)
    key = override.key_or_group
    if override.is_delete():
        raise UserError(f"{text} asks to delete a key; give it the value null instead.")
    try:
        old = OmegaConf.select(cfg, key, default=_ABSENT, throw_on_resolution_failure=False)
        if not override.is_add():
            if old is _ABSENT:
                close = closest(key, _keys(cfg), count=1)
                raise UserError(
                    f"There is no configuration key {key}; the closest is {close[0]}. To add a "
                    f"key, write +{key}=..."
                )
            _check_type(key, old, override.value())
        LazyConfig.apply_overrides(cfg, [text])
    except (OmegaConfBaseException, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The override {text} cannot be applied: {reason}") from error


def _parse(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise UserError(
            f"{text!r} is no override of a Python configuration, which takes key=value, e.g. "
            "train.max_iter=1000."
        ) from error


def _check_type(key: str, old: Any, new: Any) -> None:
    """Raise an error for a value of another type; a list may replace a single value."""
    if isinstance(old, DictConfig) and not isinstance(new, Mapping | None):
        raise UserError(f"{key} is {new}; it must be a section or null.")
    expected = {type(value) for value in _scalars(old)}
    if float in expected:
        expected.add(int)
    for value in _scalars(new):
        if expected and type(value) not in expected:
            names = " or ".join(sorted(kind.__name__ for kind in expected))
            raise UserError(
                f"{key} is {value}, of type {type(value).__name__}; it must be of type {names}, "
                f"like {old}."
            )


def _scalars(value: Any) -> Iterator[Any]:
    """Yield the numbers, booleans and strings of a value or, recursively, of a list."""
    if isinstance(value, list | tuple | ListConfig):
        for item in value:
            yield from _scalars(item)
    elif isinstance(value, bool | int | float | str):
        yield value


def _items(node: DictConfig | ListConfig) -> Iterator[tuple[Any, Any]]:
    """Yield keys or indices with their values, without interpolations."""
    keys: Iterable[Any] = node if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        if not OmegaConf.is_interpolation(node, key):
            yield key, node[key]


def _keys(node: DictConfig | ListConfig, prefix: str = "") -> Iterator[str]:
    for key, value in _items(node):
        yield f"{prefix}{key}"
        if isinstance(value, DictConfig | ListConfig):
            yield from _keys(value, f"{prefix}{key}.")
