"""Adapt configurations of both kinds, YAML and Python, to the devices of this machine."""

from collections.abc import Iterable
from typing import Any

from detectron2.config import CfgNode
from omegaconf import DictConfig, ListConfig, OmegaConf

from .utils.device import available_device

PORTABLE_SYNC_NORM = "naiveSyncBN_N"
"""The norm that replaces "SyncBN" where that is not supported.

Unlike "SyncBN", it supports the CPU and, in several processes, convolutions with empty inputs. Both
have the same parameters, so checkpoints are interchangeable. Both weight the statistics of a
process by its number of images or RoIs, "SyncBN" also by their size.
"""


def fall_back_to_cpu(cfg: CfgNode | DictConfig) -> None:
    """Set the device of the model to "cpu", with a warning, if it is CUDA and that is unavailable.

    Args:
        cfg: configuration whose ``MODEL.DEVICE`` (YAML) or ``train.device`` (Python) is changed in
            place.
    """
    if isinstance(cfg, DictConfig):
        cfg.train.device = available_device("train.device", cfg.train.device)
    else:
        cfg.MODEL.DEVICE = available_device("MODEL.DEVICE", cfg.MODEL.DEVICE)


def replace_cuda_only_norms(cfg: CfgNode | DictConfig | ListConfig) -> None:
    """Replace "SyncBN", which synchronizes on CUDA only, with :data:`PORTABLE_SYNC_NORM`.

    Args:
        cfg: configuration or part of one. In all its sections, the keys that end with "norm" or
            "NORM" are changed in place.
    """
    keys: Iterable[Any] = range(len(cfg)) if isinstance(cfg, ListConfig) else list(cfg)
    for key in keys:
        if not isinstance(cfg, CfgNode) and OmegaConf.is_interpolation(cfg, key):
            continue  # refers to another key
        value = cfg[key]
        if isinstance(value, CfgNode | DictConfig | ListConfig):
            replace_cuda_only_norms(value)
        elif value == "SyncBN" and str(key).lower().endswith("norm"):
            cfg[key] = PORTABLE_SYNC_NORM
