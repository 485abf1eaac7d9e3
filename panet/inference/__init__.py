"""Several views of an image and several models, merged into one result."""

from .ensemble import RCNNEnsemble
from .tricks import add_testing_tricks

__all__ = ["RCNNEnsemble", "add_testing_tricks"]
