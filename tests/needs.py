"""What a test needs of the machine."""

import pytest

from panet.cpu import has_fast_bfloat16

BFLOAT16 = pytest.mark.skipif(
    not has_fast_bfloat16(), reason="this CPU has no instructions for bfloat16"
)
