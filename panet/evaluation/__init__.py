"""Evaluation: which evaluator a dataset gets, and what detectron2's lack."""

from .builder import build_evaluator
from .in_background import InBackground
from .picture_recorder import PictureRecorder
from .pictures import draw_comparison

__all__ = ["InBackground", "PictureRecorder", "build_evaluator", "draw_comparison"]
