"""Training and its surroundings."""

from .trainer import PANetTrainer

__all__ = ["PANetTrainer"]
