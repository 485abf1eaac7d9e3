"""Make the package ``lvis`` work with numpy 1.24 and later.

Seen in lvis 0.5.3: its evaluation uses ``np.float``, which numpy 1.24 removed. Remove this file
when it uses ``float``.
"""

from contextlib import AbstractContextManager

import numpy as np

from .patching import patched


def numpy_float() -> AbstractContextManager[None]:
    """Return a context manager in which ``np.float`` is Python's ``float``."""
    return patched(np, "float", float)
