"""Cityscapes' evaluator for every version of detectron2."""

import importlib
import sys
from types import ModuleType

from detectron2.evaluation import CityscapesInstanceEvaluator

# Versions of detectron2 from 2025 on import the public package under this name, which exists
# only inside Meta.
_INTERNAL_PARENT = "deeplearning.projects.cityscapesApi"
_USED_MODULES = (
    "cityscapesscripts",
    "cityscapesscripts.helpers",
    "cityscapesscripts.helpers.labels",
    "cityscapesscripts.evaluation",
    "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling",
)


def _alias_internal_name() -> None:
    parts = _INTERNAL_PARENT.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        sys.modules.setdefault(name, ModuleType(name))
    for name in _USED_MODULES:
        sys.modules.setdefault(f"{_INTERNAL_PARENT}.{name}", importlib.import_module(name))


def build_cityscapes_evaluator(dataset_name: str) -> CityscapesInstanceEvaluator:
    """detectron2's evaluator, with the public ``cityscapesscripts`` wherever it looks for it."""
    _alias_internal_name()
    return CityscapesInstanceEvaluator(dataset_name)
