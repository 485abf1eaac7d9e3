"""Checkpoints are read without executing anything."""

import os
import pickle
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from panet.checkpoint.checkpoint_file import load_checkpoint, split_checkpoint
from panet.utils.errors import UserError


class Executes:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("new_format", [True, False])
def test_nothing_is_executed(tmp_path: Path, new_format: bool) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    torch.save(
        {"model": {"a": torch.ones(2)}, "step": Executes(trace)},
        path,
        _use_new_zipfile_serialization=new_format,
    )
    with pytest.raises(UserError, match=r"evil.pth is not loaded because it contains posix.mkdir"):
        load_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize("new_format", [True, False])
def test_what_training_programs_leave_is_read(tmp_path: Path, new_format: bool) -> None:
    path = tmp_path / "release.pth"
    checkpoint = {
        "epoch": np.int64(3),
        "lr": np.float32(0.5),
        "meta": {"CLASSES": ("a", "b"), "time": "today"},
        "model": {"module.a": nn.Parameter(torch.ones(2)), "module.b": torch.zeros(1)},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}},
    }
    torch.save(checkpoint, path, _use_new_zipfile_serialization=new_format)
    loaded = load_checkpoint(path)
    assert (loaded["epoch"], loaded["lr"]) == (3, 0.5)
    tensors, others = split_checkpoint(loaded)
    assert set(tensors) == {"a", "b"}
    assert not tensors["a"].requires_grad
    assert set(others) == {"epoch", "lr", "meta", "optimizer"}
    assert split_checkpoint({"a": torch.ones(1), "note": "x"})[1] == ["note"]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    path = tmp_path / "damaged.pth"
    for new_format in (True, False):
        torch.save({"model": torch.ones(100)}, whole, _use_new_zipfile_serialization=new_format)
        for length in (0, 1, 100, whole.stat().st_size // 2):
            path.write_bytes(whole.read_bytes()[:length])
            with pytest.raises(UserError, match=r"damaged.pth is damaged"):
                load_checkpoint(path)
    for content in (b"<html>not found</html>", pickle.dumps({"a": 1})):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"damaged.pth is damaged"):
            load_checkpoint(path)
    with pytest.raises(UserError, match="There is no checkpoint"):
        load_checkpoint(tmp_path / "absent.pth")
    torch.save(torch.ones(3), path)
    with pytest.raises(UserError, match="holds a Tensor instead"):
        load_checkpoint(path)


def test_mmengines_training_curves_are_inert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self) -> None:
            self._max_length = 1000
            self._log_history = np.array([0.5, 0.25])
            self._count_history = np.array([1, 1])
            self._statistics_methods: dict[str, object] = {}

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    path = tmp_path / "epoch_12.pth"
    with monkeypatch.context() as patch:
        for name in ("mmengine", "mmengine.logging", module.__name__):
            patch.setitem(sys.modules, name, module)
        hub = {"log_scalars": {"train/loss": HistoryBuffer()}, "runtime_info": {"iter": 3}}
        torch.save({"state_dict": {"a": torch.ones(2)}, "message_hub": hub}, path)
    loaded = load_checkpoint(path)
    assert split_checkpoint(loaded)[0].keys() == {"a"}
    assert vars(loaded["message_hub"]["log_scalars"]["train/loss"]) == {}
