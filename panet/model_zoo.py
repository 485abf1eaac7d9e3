"""Configurations and models by name, like ``detectron2.model_zoo``."""

import difflib
import logging
from pathlib import Path

from detectron2.config import CfgNode, instantiate
from detectron2.modeling import build_model
from omegaconf import DictConfig
from torch import nn

from .checkpoint import build_checkpointer, build_lazy_checkpointer
from .config import load_config
from .lazy_config import load_lazy_config
from .utils.errors import DownloadError, InputError

logger = logging.getLogger(__name__)

# Released checkpoints: configuration name to URL.
_CHECKPOINT_URLS: dict[str, str] = {}

_CONFIG_ROOT = Path(__file__).parent / "configs"


def list_configs() -> list[str]:
    """Every name that the functions of this module take, e.g. "panet_R50_2x.yaml".

    Those of Python configurations begin with "lazy/" and end in ".py".
    """
    yaml = [path for path in _CONFIG_ROOT.rglob("*.yaml") if not path.name.startswith("Base-")]
    common = _CONFIG_ROOT / "lazy" / "common"
    python = [path for path in _CONFIG_ROOT.rglob("*.py") if common not in path.parents]
    return sorted(path.relative_to(_CONFIG_ROOT).as_posix() for path in (*yaml, *python))


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


def get_config(config_path: str, trained: bool = False) -> CfgNode | DictConfig:
    """A configuration, for the CPU where there is no CUDA.

    Args:
        config_path: a name from :func:`list_configs`.
        trained: whether ``MODEL.WEIGHTS``, or ``train.init_checkpoint``, shall be the trained
            checkpoint. Otherwise it is what training starts from, usually a backbone trained on
            ImageNet.

    Returns:
        A ``CfgNode`` for a name that ends in ".yaml", a ``DictConfig`` for one that ends in ".py".

    Raises:
        ValueError: if there is no such configuration, or no checkpoint for it.
    """
    config_file = get_config_file(config_path)
    if config_file.endswith(".py"):
        lazy_cfg = load_lazy_config(config_file)
        if trained:
            lazy_cfg.train.init_checkpoint = get_checkpoint_url(config_path)
        return lazy_cfg
    cfg = load_config(config_file)
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
    if isinstance(cfg, DictConfig):
        model = instantiate(cfg.model).to(device or cfg.train.device)
        checkpointer, weights = build_lazy_checkpointer(cfg, model), cfg.train.init_checkpoint
    else:
        if device is not None:
            cfg.MODEL.DEVICE = device
        try:
            model = build_model(cfg)
        except DownloadError as error:  # about timm's weights
            logger.warning("%s The model keeps random weights.", error)
            cfg.MODEL.TIMM.PRETRAINED = False
            model = build_model(cfg)
        checkpointer, weights = build_checkpointer(cfg, model), cfg.MODEL.WEIGHTS
    try:
        checkpointer.load(weights)
    except DownloadError as error:
        if trained:
            raise
        logger.warning("%s The model keeps random weights.", error)
    return model
