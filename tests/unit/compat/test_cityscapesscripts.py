"""Whether ``panet.compat.cityscapesscripts`` is still needed, and what it leaves."""

import inspect
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling
from cityscapesscripts.helpers import csHelpers

from panet.compat.cityscapesscripts import instance_evaluation


@pytest.mark.parametrize("fault", ["np.in1d(", 'writeDict2JSON(matches,"matches.json")'])
def test_the_package_has_both_faults(fault: str) -> None:
    assert fault in inspect.getsource(evalInstanceLevelSemanticLabeling)


def test_mends_them_meanwhile_only(tmp_path: Path) -> None:
    had_in1d = hasattr(np, "in1d")
    with instance_evaluation():
        assert vars(np)["in1d"] is np.isin
        evalInstanceLevelSemanticLabeling.writeDict2JSON({}, str(tmp_path / "matches.json"))
    assert not list(tmp_path.iterdir())
    assert hasattr(np, "in1d") == had_in1d
    assert evalInstanceLevelSemanticLabeling.writeDict2JSON is csHelpers.writeDict2JSON
