"""Datasets, and the order in which training reads them."""

from . import builtin

__all__ = ["builtin"]
