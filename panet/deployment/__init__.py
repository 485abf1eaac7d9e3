"""Building and optimizing trained models."""

from .optimize import optimize_by_name, optimize_for_inference, optimize_from_config
from .trained_model import Category, check_weights, load_trained_model, member_configs

__all__ = [
    "Category",
    "check_weights",
    "load_trained_model",
    "member_configs",
    "optimize_by_name",
    "optimize_for_inference",
    "optimize_from_config",
]
