"""Several views of an image and several models, merged into one result."""

from .ensemble import RCNNEnsemble
from .tta_model import add_tta

__all__ = ["RCNNEnsemble", "add_tta"]
