"""Evaluators of all supported dataset types."""

from .builder import build_evaluator
from .in_background import InBackground
from .picture_recorder import PictureRecorder
from .pictures import draw_comparison

__all__ = ["InBackground", "PictureRecorder", "build_evaluator", "draw_comparison"]
