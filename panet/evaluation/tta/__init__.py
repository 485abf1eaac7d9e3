"""Several views of an image and several models, merged into one result."""

from .build import add_testing_tricks
from .ensemble import RCNNEnsemble

__all__ = ["RCNNEnsemble", "add_testing_tricks"]
