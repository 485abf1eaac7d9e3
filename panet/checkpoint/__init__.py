"""Loading and saving weights, other people's too."""

from .checkpointer import (
    CompleteCheckpointer,
    PANetCheckpointer,
    build_checkpointer,
    build_lazy_checkpointer,
)

__all__ = [
    "CompleteCheckpointer",
    "PANetCheckpointer",
    "build_checkpointer",
    "build_lazy_checkpointer",
]
