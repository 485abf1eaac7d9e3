"""Load the weights of an independent RPN."""

from detectron2.config import CfgNode
from torch import nn

from panet.modeling import IndependentRPN

from .checkpointer import CompleteCheckpointer


def load_independent_rpn(cfg: CfgNode, model: nn.Module) -> None:
    """Load ``MODEL.INDEPENDENT_RPN.WEIGHTS`` if it is set and the model has an independent RPN.

    Args:
        cfg: configuration of the model.
        model: changed in place.

    Raises:
        UserError: if the file does not exist or lacks weights of the RPN.
    """
    weights = cfg.MODEL.INDEPENDENT_RPN.WEIGHTS
    proposer = getattr(model, "proposal_generator", None)
    if weights and isinstance(proposer, IndependentRPN):
        key = "MODEL.INDEPENDENT_RPN.WEIGHTS"
        CompleteCheckpointer(proposer.network, weights_key=key).load(weights)
