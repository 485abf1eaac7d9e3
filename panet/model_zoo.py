"""Configurations and models by name, like ``detectron2.model_zoo``."""

import logging

from detectron2.config import CfgNode, instantiate
from detectron2.modeling import build_model
from omegaconf import DictConfig
from torch import nn

from .checkpoint import build_checkpointer, build_lazy_checkpointer, load_independent_rpn
from .config import load_config
from .config_files import find_config_file, get_config_file, list_configs
from .lazy_config import load_lazy_config
from .modeling.backbones.timm import use_timm_normalization
from .utils.device import fall_back_to_cpu
from .utils.errors import DownloadError

__all__ = [
    "find_config_file",
    "get",
    "get_checkpoint_url",
    "get_config",
    "get_config_file",
    "list_configs",
]

logger = logging.getLogger(__name__)

# Released checkpoints: configuration name to URL.
_CHECKPOINT_URLS: dict[str, str] = {}


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
    use_timm_normalization(cfg)
    fall_back_to_cpu(cfg)
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
        load_independent_rpn(cfg, model)
        checkpointer, weights = build_checkpointer(cfg, model), cfg.MODEL.WEIGHTS
    try:
        checkpointer.load(weights)
    except DownloadError as error:
        if trained:
            raise
        logger.warning("%s The model keeps random weights.", error)
    return model
