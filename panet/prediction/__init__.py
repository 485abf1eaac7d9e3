"""Predicting on images and videos, in Python and into folders of results."""

from .predictor import Predictor, prediction_config
from .reading import UnreadableImageError, read_image

__all__ = [
    "Predictor",
    "UnreadableImageError",
    "prediction_config",
    "read_image",
]
