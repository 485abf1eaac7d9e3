"""LVIS's package ``lvis``, which names a type that numpy 1.24 removed.

Seen in lvis 0.5.3: its evaluation converts counts to ``np.float``. This file can go once it
converts them to ``float``.
"""

from contextlib import AbstractContextManager

import numpy as np

from .patching import patched


def numpy_float() -> AbstractContextManager[None]:
    """A context in which ``np.float`` is Python's ``float``, as it was."""
    return patched(np, "float", float)
