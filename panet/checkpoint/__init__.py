"""Loading and saving weights, other people's too."""

from .checkpointer import (
    CompleteCheckpointer,
    PANetCheckpointer,
    build_checkpointer,
    build_lazy_checkpointer,
)
from .rpn_weights import load_independent_rpn

__all__ = [
    "CompleteCheckpointer",
    "PANetCheckpointer",
    "build_checkpointer",
    "build_lazy_checkpointer",
    "load_independent_rpn",
]
