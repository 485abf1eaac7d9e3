"""Loading and saving weights, other people's too."""

from .checkpointer import PANetCheckpointer, build_checkpointer, build_lazy_checkpointer

__all__ = ["PANetCheckpointer", "build_checkpointer", "build_lazy_checkpointer"]
