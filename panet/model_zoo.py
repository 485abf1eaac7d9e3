"""Configurations and models by name, like ``detectron2.model_zoo``."""

import logging

from detectron2.config import CfgNode, instantiate
from detectron2.modeling import build_model
from omegaconf import DictConfig
from torch import nn

from .checkpoint import (
    PUBLISHED,
    build_checkpointer,
    build_lazy_checkpointer,
    load_independent_rpn,
)
from .config import load_config
from .config_device import fall_back_to_cpu
from .config_files import find_config_file, get_config_file, list_configs
from .lazy_config import load_lazy_config
from .modeling.backbones.timm import use_timm_normalization
from .utils.errors import DownloadError, UserError

__all__ = [
    "find_config_file",
    "get",
    "get_checkpoint_url",
    "get_config",
    "get_config_file",
    "list_configs",
]

logger = logging.getLogger(__name__)


def get_config(config_path: str, trained: bool = False) -> CfgNode | DictConfig:
    """Load a configuration; its device is the CPU if CUDA is not available.

    Args:
        config_path: name from :func:`list_configs`.
        trained: set ``MODEL.WEIGHTS`` or ``train.init_checkpoint`` to the trained checkpoint. By
            default it is what training starts from, usually a backbone trained on ImageNet.

    Returns:
        A ``CfgNode`` for names ending with ".yaml", a ``DictConfig`` for names ending with ".py".

    Raises:
        ValueError: if there is no such configuration or no checkpoint for it.
    """
    config_file = get_config_file(config_path)
    if config_file.endswith(".py"):
        lazy_cfg = load_lazy_config(config_file)
        fall_back_to_cpu(lazy_cfg)
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
    """Return the URL of the weights that were trained with a configuration.

    It begins with "panet://" and can be used as ``MODEL.WEIGHTS``: published weights are downloaded
    once, converted and cached, see :mod:`panet.checkpoint.published`.

    Args:
        config_path: name from :func:`list_configs`.

    Raises:
        ValueError: if there is no such configuration or no checkpoint for it.
    """
    get_config_file(config_path)
    if config_path not in PUBLISHED:
        raise UserError(
            f"There are no trained weights for {config_path!r}; there are for "
            f"{', '.join(PUBLISHED)}."
        )
    return PUBLISHED[config_path].weights


def get(config_path: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """Build a model in training mode and load the weights of its configuration.

    If the initial backbone weights cannot be downloaded, the model keeps random weights and a
    warning is logged.

    Args:
        config_path: name from :func:`list_configs`.
        trained: see :func:`get_config`.
        device: device of the model, e.g. "cpu"; default: CUDA if available.

    Raises:
        ValueError: if there is no such configuration or no checkpoint for it.
        DownloadError: if the trained checkpoint cannot be downloaded.
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
        except DownloadError as error:  # of timm's weights
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
