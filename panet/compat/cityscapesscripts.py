"""Make the instance evaluation of ``cityscapesscripts`` work with recent versions of numpy.

Seen in cityscapesScripts 2.3.0: it calls ``np.in1d``, which numpy 2.4 removed, and it writes its
matches to ``matches.json`` in the working directory, which fails for numpy integers. Remove this
file when the package does neither.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from .patching import patched


@contextmanager
def instance_evaluation() -> Iterator[None]:
    """Patch the instance evaluation: provide ``np.in1d`` and do not write ``matches.json``.

    Raises:
        ModuleNotFoundError: if the package is not installed.
    """
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling

    with (
        patched(np, "in1d", np.isin),
        patched(evalInstanceLevelSemanticLabeling, "writeDict2JSON", lambda content, path: None),
    ):
        yield
