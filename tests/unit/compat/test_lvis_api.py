"""Whether ``panet.compat.lvis_api`` is still needed; ``tests/evaluation`` shows that it helps."""

import inspect

import lvis.eval
import numpy as np

from panet.compat.lvis_api import numpy_float


def test_the_package_names_numpys_float() -> None:
    assert "np.float)" in inspect.getsource(lvis.eval)


def test_numpy_has_it_meanwhile_only() -> None:
    with numpy_float():
        assert vars(np)["float"] is float
    assert not hasattr(np, "float")
