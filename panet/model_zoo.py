"""Configurations and models by name, like ``detectron2.model_zoo``."""

import difflib
import logging
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from .checkpoint import build_checkpointer
from .config import load_config
from .errors import DownloadError, InputError

logger = logging.getLogger(__name__)

# Released checkpoints: configuration name to URL.
_CHECKPOINT_URLS: dict[str, str] = {}

_CONFIG_ROOT = Path(__file__).parent / "configs"


def list_configs() -> list[str]:
    """Every name that the functions of this module take, e.g. "panet_R50_2x.yaml"."""
    paths = (path.relative_to(_CONFIG_ROOT) for path in _CONFIG_ROOT.rglob("*.yaml"))
    return sorted(path.as_posix() for path in paths if not path.name.startswith("Base-"))


def get_config_file(config_path: str) -> str:
    """The path of a configuration file.

    Args:
        config_path: a name from :func:`list_configs`.

    Raises:
        InputError: if there is none of that name, with the closest ones.
    """
    names = list_configs()
    if config_path not in names:
        close = difflib.get_close_matches(config_path, names, n=3, cutoff=0.0)
        raise InputError(
            f"{config_path!r} is not in PANet's model zoo; the closest are {', '.join(close)}."
        )
    return str(_CONFIG_ROOT / config_path)


def find_config_file(name_or_path: str) -> str:
    """The path of a configuration that a user names.

    Args:
        name_or_path: a name from :func:`list_configs`, or the path of a file.

    Raises:
        InputError: if it is neither, with the closest names.
    """
    if name_or_path not in list_configs() and Path(name_or_path).is_file():
        return name_or_path
    try:
        return get_config_file(name_or_path)
    except InputError as error:
        raise InputError(f"There is no configuration file {name_or_path}: {error}") from None


def get_config(config_path: str, trained: bool = False) -> CfgNode:
    """A configuration, for the CPU where there is no CUDA.

    Args:
        config_path: a name from :func:`list_configs`.
        trained: whether ``MODEL.WEIGHTS`` shall be the trained checkpoint. Otherwise it is what
            training starts from, usually a backbone trained on ImageNet.

    Raises:
        ValueError: if there is no such configuration, or no checkpoint for it.
    """
    cfg = load_config(get_config_file(config_path))
    if trained:
        cfg.MODEL.WEIGHTS = get_checkpoint_url(config_path)
    return cfg


def get_checkpoint_url(config_path: str) -> str:
    """Where the checkpoint trained with a configuration can be downloaded.

    Args:
        config_path: a name from :func:`list_configs`.

    Raises:
        ValueError: if there is no such configuration, or no checkpoint for it.
    """
    get_config_file(config_path)
    if config_path not in _CHECKPOINT_URLS:
        available = ", ".join(_CHECKPOINT_URLS) or "none"
        raise ValueError(
            f"There is no trained checkpoint for {config_path!r}; available are: {available}."
        )
    return _CHECKPOINT_URLS[config_path]


def get(config_path: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """A model, in training mode, with the weights of its configuration.

    Where the backbone's weights for training cannot be downloaded, the model keeps random ones,
    and a warning says so.

    Args:
        config_path: a name from :func:`list_configs`.
        trained: see :func:`get_config`.
        device: where to put the model, e.g. "cpu"; by default CUDA if there is one.

    Raises:
        ValueError: if there is no such configuration, or no checkpoint for it.
        DownloadError: if a trained checkpoint cannot be downloaded.
    """
    cfg = get_config(config_path, trained)
    if device is not None:
        cfg.MODEL.DEVICE = device
    model = build_model(cfg)
    try:
        build_checkpointer(cfg, model).load(cfg.MODEL.WEIGHTS)
    except DownloadError as error:
        if trained:
            raise
        logger.warning("%s The model keeps random weights.", error)
    return model
