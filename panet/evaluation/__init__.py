"""Evaluation: which evaluator a dataset gets, and what detectron2's lack."""

from .builder import build_evaluator

__all__ = ["build_evaluator"]
