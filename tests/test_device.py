"""What the C library's allocator is told, seen from the outside."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, statistics, torch
from panet.device import keep_freed_memory

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
