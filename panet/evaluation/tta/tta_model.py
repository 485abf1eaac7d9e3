"""Adding TTA to a model as configured."""

from detectron2.config import CfgNode
from torch import nn

from .ensemble import RCNNEnsemble


def add_tta(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Wrap a model with the TTA views, voting and box tightening enabled in ``cfg.TEST``.

    Args:
        cfg: keys ``TEST.AUG``, ``TEST.BOX_VOTING``, ``TEST.MASK_VOTING``, ``TEST.TIGHTEN_BOXES``.
        model: a ``GeneralizedRCNN``, or any model if none of these is enabled.

    Returns:
        ``model`` itself if none is enabled, or if it is an :class:`RCNNEnsemble` already.

    Raises:
        UserError: if the model does not support them.
    """
    enabled = cfg.TEST.AUG.ENABLED or cfg.TEST.BOX_VOTING.ENABLED or cfg.TEST.TIGHTEN_BOXES
    return RCNNEnsemble(cfg, [model]) if enabled and not isinstance(model, RCNNEnsemble) else model
