"""Whether detectron2's checkpointer still needs what is mended of it."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from panet.checkpoint import PANetCheckpointer
from panet.compat.detectron2_checkpoint import ReusableCheckpointer


class Executes:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def good(tmp_path: Path) -> str:
    file = tmp_path / "good.pth"
    torch.save({"model": nn.Linear(2, 1).state_dict()}, file)
    return str(file)


@pytest.fixture
def bad(tmp_path: Path) -> str:
    file = tmp_path / "bad.pth"
    file.write_bytes(b"nothing")
    return str(file)


def test_detectron2s_own_loads_nothing_after_an_error(good: str, bad: str) -> None:
    checkpointer = DetectionCheckpointer(nn.Linear(2, 1))
    with pytest.raises(Exception):  # noqa: B017, PT011  # of one kind or another
        checkpointer.load(bad)
    with pytest.raises(AssertionError):
        checkpointer.load(good)


@pytest.mark.parametrize("kind", [ReusableCheckpointer, PANetCheckpointer])
def test_ours_does(kind: type[ReusableCheckpointer], good: str, bad: str) -> None:
    model = nn.Linear(2, 1)
    checkpointer = kind(model)
    with pytest.raises(Exception):  # noqa: B017, PT011
        checkpointer.load(bad)
    checkpointer.load(good)
    assert torch.equal(model.weight, torch.load(good)["model"]["weight"])


def test_detectron2s_own_executes_pickles(tmp_path: Path) -> None:
    """Or ``PANetCheckpointer`` need not read them itself."""
    file, trace = tmp_path / "zoo.pkl", tmp_path / "trace"
    content = {"model": {}, "__author__": "somebody", "extra": Executes(trace)}
    file.write_bytes(pickle.dumps(content))
    DetectionCheckpointer(nn.Linear(2, 1)).load(str(file))
    assert trace.exists()
