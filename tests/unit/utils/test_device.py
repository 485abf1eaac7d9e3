"""Settings for this machine: the allocator of the C library, CPU threads and precisions."""

import ctypes
import platform
import subprocess
import sys

import pytest
import torch
from detectron2.utils import comm
from torch import distributed

from panet.utils import device
from panet.utils.errors import UserError

# Calls glibc's mallopt, which returns 1 on success, and records arguments and result.
KEEPS_MEMORY = """
import ctypes
from panet.utils.device import keep_freed_memory

glibc, calls = ctypes.CDLL(None), []

class Recording:
    def mallopt(self, parameter, value):
        calls.append((parameter, value, glibc.mallopt(parameter, value)))

ctypes.CDLL = lambda name: Recording()
keep_freed_memory()
print(calls)
"""

LIMITS_THREADS = """
import torch
from panet.utils.device import limit_cpu_threads

for processes in (1, 2, 3, 8):
    torch.set_num_threads(4)
    limit_cpu_threads(processes)
    print(torch.get_num_threads())
"""


def output_of(program: str) -> str:
    """Run a program in a process of its own, because it changes settings of the whole process."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="sets parameters of glibc")
def test_glibc_keeps_freed_memory() -> None:
    # M_MMAP_MAX and M_TRIM_THRESHOLD of glibc's malloc.h.
    assert output_of(KEEPS_MEMORY) == "[(-4, 0, 1), (-1, -1, 1)]\n"


def test_other_c_libraries_are_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # without mallopt
    device.keep_freed_memory()


def test_processes_share_the_cpu_threads() -> None:
    assert output_of(LIMITS_THREADS).split() == ["4", "2", "1", "1"]


def test_bfloat16_becomes_single_precision_where_the_cpu_has_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def usable(dtype: torch.dtype, kind: str = "cpu") -> torch.dtype:
        return device.usable_precision("SOLVER.AMP.DTYPE", dtype, torch.device(kind))

    monkeypatch.setattr(device, "has_fast_bfloat16", lambda: False)
    assert usable(torch.float32) == torch.float32
    assert usable(torch.bfloat16, "cuda") == torch.bfloat16
    assert not caplog.records
    assert usable(torch.bfloat16) == torch.float32
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "SOLVER.AMP.DTYPE bfloat16 becomes float32" in caplog.text
    monkeypatch.setattr(device, "has_fast_bfloat16", lambda: True)
    assert usable(torch.bfloat16) == torch.bfloat16


class OnDevice:
    """A tensor of a device that this machine lacks."""

    def __init__(self, kind: str) -> None:
        self.is_cuda = kind == "cuda"
        self.options: dict[str, object] = {}

    def detach(self) -> "OnDevice":
        return self

    def to(self, target: str, **options: object) -> torch.Tensor:
        self.options = {"target": target, **options}
        return torch.ones(1)


class Event:
    def record(self) -> None: ...

    def synchronize(self) -> None: ...


def test_copies_without_an_event_are_synchronous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.Event", Event)
    for kind in ("mps", "xpu", "cuda"):
        tensor = OnDevice(kind)
        assert device.HostCopy(tensor).read() == torch.ones(1)
        assert tensor.options == {"target": "cpu", "non_blocking": kind == "cuda", "copy": True}


def test_processes_on_the_cpu_of_a_machine_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "get_backend", lambda: "nccl")
    device.check_process_group("cpu")  # of a single process
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    device.check_process_group("cuda")
    with pytest.raises(UserError, match=r"cannot train on the device cpu .* --num-gpus to 1, or"):
        device.check_process_group("cpu")
    monkeypatch.setattr(distributed, "get_backend", lambda: "gloo")
    device.check_process_group("cpu")
