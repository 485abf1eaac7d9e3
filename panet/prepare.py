"""Fitting a configuration to its data and to this machine."""

from detectron2.config import CfgNode

from .data.custom import use_custom_data
from .modeling.backbones.timm import use_timm_normalization
from .utils.device import fall_back_to_cpu


def prepare(cfg: CfgNode) -> CfgNode:
    """Make a configuration ready to build, train and evaluate its model; repeating it is harmless.

    - The datasets of ``DATASETS.OWN`` are registered, see
      :func:`panet.data.custom.use_custom_data`.
    - Images come to a timm model as it was trained, see
      :func:`panet.modeling.backbones.timm.use_timm_normalization`.
    - Without CUDA, ``MODEL.DEVICE`` becomes "cpu".

    Args:
        cfg: changed in place.

    Returns:
        The same.

    Raises:
        UserError: if the data or the timm model is not there or does not fit.
    """
    use_custom_data(cfg)
    use_timm_normalization(cfg)
    fall_back_to_cpu(cfg)
    return cfg
