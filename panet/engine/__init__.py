"""Training and its surroundings."""

from .lazy_trainer import LazyTrainer
from .resumable import ResumableTrainer
from .trainer import PANetTrainer

__all__ = ["LazyTrainer", "PANetTrainer", "ResumableTrainer"]
