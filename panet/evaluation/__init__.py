"""Evaluation: which evaluator a dataset gets, and what detectron2's lack."""

from .builder import build_evaluator
from .picture_recorder import PictureRecorder
from .pictures import draw_comparison

__all__ = ["PictureRecorder", "build_evaluator", "draw_comparison"]
