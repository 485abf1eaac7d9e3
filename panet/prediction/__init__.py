"""Predicting on images and videos, in Python and into folders of results."""

from .media import UnreadableImageError, read_image
from .predictor import Predictor, prediction_config

__all__ = [
    "Predictor",
    "UnreadableImageError",
    "prediction_config",
    "read_image",
]
