"""Datasets, data loaders and samplers."""

from . import builtin

__all__ = ["builtin"]
