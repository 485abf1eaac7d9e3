"""What the C library's allocator is told, seen from the outside."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from panet.device import keep_freed_memory

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(64 * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

page_faults()
first = page_faults()
keep_freed_memory()
page_faults()
print(first, page_faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="is about glibc")
def test_freed_memory_is_used_again() -> None:
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    ).stdout
    by_default, kept = map(int, output.split())
    assert kept < by_default / 10
