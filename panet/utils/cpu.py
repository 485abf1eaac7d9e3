"""CPU capabilities as seen by PyTorch's kernels."""

from collections.abc import Mapping
from typing import Any

import torch

HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()
"""Whether PyTorch was built with oneDNN (named MKL-DNN in its API)."""


AVX2_ONLY = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
"""Environment variables that limit a newer CPU to AVX2."""


def has_avx512() -> bool:
    """Whether PyTorch uses AVX-512."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def has_avx2_only() -> bool:
    """Whether PyTorch uses AVX2 and no newer instructions."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def has_fast_bfloat16() -> bool:
    """Whether oneDNN has optimized bfloat16 kernels for this CPU, not only reference loops."""
    # Flags of AVX2 and ARM CPUs; older versions of PyTorch do not report them.
    others: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return HAS_ONEDNN and (has_avx512() or any(map(others.get, ("avx_ne_convert", "bf16"))))


def name() -> str:
    """Describe the CPU for reports, e.g. "AVX512, bf16" or "AVX2"."""
    capability: str = torch.backends.cpu.get_cpu_capability()
    return f"{capability}, bf16" if has_fast_bfloat16() else capability
