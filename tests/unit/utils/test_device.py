"""What the machine offers: the C library's allocator, and precisions."""

import subprocess
import sys

import pytest
import torch

from panet.utils import device

PROGRAM = """
import resource, statistics, torch
from panet.utils.device import keep_freed_memory

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

by_default = statistics.median(page_faults() for _ in range(8))
keep_freed_memory()
# The heap grows a few times before a freed block is large enough, with its alignment, for the next.
kept = statistics.median(page_faults() for _ in range(64))
print(by_default, kept)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="is about glibc")
def test_freed_memory_is_used_again() -> None:
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    ).stdout
    by_default, kept = map(float, output.split())
    assert kept < by_default / 10


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
