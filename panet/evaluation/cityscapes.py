"""Cityscapes' evaluator for every version of detectron2 and for today's numpy."""

import importlib
import sys
from types import ModuleType
from typing import Any
from unittest import mock

import detectron2.evaluation
import numpy as np

# Versions of detectron2 from 2025 on import the public package under this name, which exists
# only inside Meta.
_INTERNAL_PARENT = "deeplearning.projects.cityscapesApi"
_EVALUATION = "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling"
_USED_MODULES = (
    "cityscapesscripts",
    "cityscapesscripts.helpers",
    "cityscapesscripts.helpers.labels",
    "cityscapesscripts.evaluation",
    _EVALUATION,
)


def _alias_internal_name() -> None:
    parts = _INTERNAL_PARENT.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        sys.modules.setdefault(name, ModuleType(name))
    for name in _USED_MODULES:
        sys.modules.setdefault(f"{_INTERNAL_PARENT}.{name}", importlib.import_module(name))


class CityscapesInstanceEvaluator(detectron2.evaluation.CityscapesInstanceEvaluator):
    """detectron2's evaluator, with the public ``cityscapesscripts`` wherever it looks for it."""

    def __init__(self, dataset_name: str) -> None:
        """
        Args:
            dataset_name: registered, with "thing_classes" and "gt_dir" in its metadata.
        """
        _alias_internal_name()
        super().__init__(dataset_name)

    def evaluate(self) -> dict[str, Any] | None:
        # The package calls a function that numpy 2.4 removed, and leaves a matches.json in the
        # working directory, which fails on numpy's integers.
        with (
            mock.patch.object(np, "in1d", np.isin, create=True),
            mock.patch.object(sys.modules[_EVALUATION], "writeDict2JSON"),
        ):
            return super().evaluate()
