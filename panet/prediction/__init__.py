"""Prediction on images and videos, in Python and into result folders."""

from .media import UnreadableImageError, read_image
from .predictor import Predictor, prediction_config

__all__ = [
    "Predictor",
    "UnreadableImageError",
    "prediction_config",
    "read_image",
]
