"""Load and save model weights, including those of other projects."""

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
