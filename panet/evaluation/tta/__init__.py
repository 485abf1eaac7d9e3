"""Test-time augmentation and model ensembles."""

from .ensemble import RCNNEnsemble, add_tta

__all__ = ["RCNNEnsemble", "add_tta"]
