"""Load and save model weights, including those of other projects."""

from .checkpointer import (
    CompleteCheckpointer,
    PANetCheckpointer,
    build_checkpointer,
    build_lazy_checkpointer,
)
from .published import PUBLISHED, fetch
from .rpn_weights import load_independent_rpn

__all__ = [
    "PUBLISHED",
    "CompleteCheckpointer",
    "PANetCheckpointer",
    "build_checkpointer",
    "build_lazy_checkpointer",
    "fetch",
    "load_independent_rpn",
]
