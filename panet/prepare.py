"""Adapt a configuration to its data and this machine."""

from detectron2.config import CfgNode

from .compat.detectron2_cityscapes import find_under_internal_name
from .config_device import fall_back_to_cpu
from .data.custom import use_custom_data
from .modeling.backbones.timm import use_timm_normalization


def prepare(cfg: CfgNode) -> CfgNode:
    """Prepare a configuration for building, training and evaluating its model; idempotent.

    - Registers the datasets of ``DATASETS.OWN``, see
      :func:`panet.data.custom.use_custom_data`.
    - Makes detectron2 find the package ``cityscapesscripts`` if there is a dataset of Cityscapes,
      see :mod:`panet.compat.detectron2_cityscapes`.
    - Sets the image normalization of timm models, see
      :func:`panet.modeling.backbones.timm.use_timm_normalization`.
    - Sets ``MODEL.DEVICE`` to "cpu" if CUDA is not available.

    Args:
        cfg: configuration, changed in place.

    Returns:
        ``cfg``.

    Raises:
        UserError: if the data or the timm model does not exist or does not fit ``cfg``.
    """
    use_custom_data(cfg)
    if any(name.startswith("cityscapes_") for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)):
        find_under_internal_name()
    use_timm_normalization(cfg)
    fall_back_to_cpu(cfg)
    return cfg
