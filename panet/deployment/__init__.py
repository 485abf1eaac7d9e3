"""Trained models made fast."""

from .optimize import optimize_by_name, optimize_for_inference, optimize_from_config

__all__ = ["optimize_by_name", "optimize_for_inference", "optimize_from_config"]
