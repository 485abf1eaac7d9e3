"""Make detectron2's Cityscapes code import the public package ``cityscapesscripts``.

Seen in detectron2 since 2025, commit 02b5c4e: it imports ``cityscapesscripts`` from the
Meta-internal package ``deeplearning.projects.cityscapesApi``. sal-detectron2 0.7.2 still uses the
public name. Remove this file when detectron2 uses it again.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

INTERNAL_NAME = "deeplearning.projects.cityscapesApi"


class _Finder(MetaPathFinder, Loader):
    """Resolve modules of the internal package to the public modules (the same objects)."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.startswith(f"{INTERNAL_NAME}."):
            return ModuleSpec(fullname, self)
        if f"{INTERNAL_NAME}.".startswith(f"{fullname}."):
            return ModuleSpec(fullname, None, is_package=True)  # namespace package
        return None

    def exec_module(self, module: ModuleType) -> None:
        public = module.__name__.removeprefix(f"{INTERNAL_NAME}.")
        # importlib returns the entry of sys.modules, not ``module``.
        sys.modules[module.__name__] = importlib.import_module(public)


def find_under_internal_name() -> None:
    """Redirect imports of the internal name to the public package in this process.

    If the public package is not installed, importing the internal name raises a
    ``ModuleNotFoundError`` for ``cityscapesscripts``.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        # Must come first, or the default finders would load the public package a second time under
        # the internal name.
        sys.meta_path.insert(0, _Finder())
