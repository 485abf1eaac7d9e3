"""Loading the RPN that makes proposals for a model that is to be trained."""

from detectron2.config import CfgNode
from torch import nn

from panet.modeling import IndependentRPN

from .checkpointer import CompleteCheckpointer


def load_independent_rpn(cfg: CfgNode, model: nn.Module) -> None:
    """Load ``MODEL.INDEPENDENT_RPN.WEIGHTS``, if it names any and the model has such an RPN.

    Args:
        cfg: of the model.
        model: changed in place.

    Raises:
        UserError: if the file is not there or lacks weights of the RPN.
    """
    weights = cfg.MODEL.INDEPENDENT_RPN.WEIGHTS
    proposer = getattr(model, "proposal_generator", None)
    if weights and isinstance(proposer, IndependentRPN):
        key = "MODEL.INDEPENDENT_RPN.WEIGHTS"
        CompleteCheckpointer(proposer.network, weights_key=key).load(weights)
