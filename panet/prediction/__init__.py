"""Predicting on images and videos, in Python and into folders of results."""

from .predictor import Predictor, prediction_config
from .reading import UnreadableImageError, read_image
from .trained_model import load_trained_model

__all__ = [
    "Predictor",
    "UnreadableImageError",
    "load_trained_model",
    "prediction_config",
    "read_image",
]
