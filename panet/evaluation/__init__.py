"""Evaluation: which evaluator a dataset gets, and what detectron2's lack."""

from .builder import build_evaluator
from .pictures import draw_comparison

__all__ = ["build_evaluator", "draw_comparison"]
