"""Training."""

from .lazy_trainer import LazyTrainer
from .trainer import PANetTrainer

__all__ = ["LazyTrainer", "PANetTrainer"]
