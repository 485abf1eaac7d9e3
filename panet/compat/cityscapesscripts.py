"""Cityscapes' package ``cityscapesscripts``, whose evaluation of instances fails with new numpy.

Seen in cityscapesScripts 2.3.0: it calls ``np.in1d``, which numpy 2.4 removed, and it writes its
matches to ``matches.json`` in the working directory, which fails on numpy's integers. This file can
go once it does neither.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from .patching import patched


@contextmanager
def instance_evaluation() -> Iterator[None]:
    """Have the evaluation of instances run, and leave no file behind.

    Raises:
        ModuleNotFoundError: if the package is not installed.
    """
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling

    def write_nothing(content: object, path: str) -> None:
        pass

    with (
        patched(np, "in1d", np.isin),
        patched(evalInstanceLevelSemanticLabeling, "writeDict2JSON", write_nothing),
    ):
        yield
