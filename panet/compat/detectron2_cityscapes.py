"""detectron2's dataset and evaluators of Cityscapes, which name a package that only Meta has.

Seen in detectron2's sources from 2025 on, commit 02b5c4e: where they need ``cityscapesscripts``,
they import it from within ``deeplearning.projects.cityscapesApi``. sal-detectron2 0.7.2 still
imports the public name. This file can go once the sources do so again.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

INTERNAL_NAME = "deeplearning.projects.cityscapesApi"


class _Finder(MetaPathFinder, Loader):
    """Finds the public modules under the internal name, as the same modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.startswith(f"{INTERNAL_NAME}."):
            return ModuleSpec(fullname, self)
        if f"{INTERNAL_NAME}.".startswith(f"{fullname}."):
            return ModuleSpec(fullname, None, is_package=True)  # a namespace
        return None

    def exec_module(self, module: ModuleType) -> None:
        public = module.__name__.removeprefix(f"{INTERNAL_NAME}.")
        # A module may put another one in its place.
        sys.modules[module.__name__] = importlib.import_module(public)


def find_under_internal_name() -> None:
    """Have imports of the internal name find the public package, in this process and from now on.

    It need not be installed: who imports it then is told that ``cityscapesscripts`` is missing.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        # First, or the public package would be found once more, under the internal name.
        sys.meta_path.insert(0, _Finder())
