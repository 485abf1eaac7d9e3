"""Test-time augmentation and model ensembles."""

from .ensemble import RCNNEnsemble
from .tta_model import add_tta

__all__ = ["RCNNEnsemble", "add_tta"]
