"""What a configuration asks for at test time, around a model."""

from detectron2.config import CfgNode
from torch import nn

from .ensemble import RCNNEnsemble


def add_tta(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """The model with the views, voting and tight boxes that ``cfg.TEST`` asks for.

    Args:
        cfg: keys ``TEST.AUG``, ``TEST.BOX_VOTING``, ``TEST.MASK_VOTING``, ``TEST.TIGHTEN_BOXES``.
        model: a ``GeneralizedRCNN``; if no trick is asked for, any model.

    Returns:
        ``model`` itself if none is, or if it is an ensemble, which has them already.

    Raises:
        UserError: if they are not for this model.
    """
    wanted = cfg.TEST.AUG.ENABLED or cfg.TEST.BOX_VOTING.ENABLED or cfg.TEST.TIGHTEN_BOXES
    return RCNNEnsemble(cfg, [model]) if wanted and not isinstance(model, RCNNEnsemble) else model
