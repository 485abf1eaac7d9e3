"""What the CPU can do, as PyTorch's kernels see it."""

from collections.abc import Mapping
from typing import Any

import torch

HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()
"""Whether PyTorch was built with oneDNN, which it calls MKL-DNN."""


AVX2_ONLY = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
"""The environment in which a newer CPU imitates one that has nothing newer than AVX2."""


def has_avx512() -> bool:
    """Whether PyTorch computes with AVX-512."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def has_avx2_only() -> bool:
    """Whether PyTorch computes with AVX2, and with nothing newer."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def has_fast_bfloat16() -> bool:
    """Whether oneDNN has kernels for bfloat16 here, and not loops for reference alone."""
    # AVX2's and ARM's, which old versions of PyTorch do not tell.
    others: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return HAS_ONEDNN and (has_avx512() or any(map(others.get, ("avx_ne_convert", "bf16"))))


def name() -> str:
    """What there is, for reports, such as "AVX512, bf16" or "AVX2"."""
    capability: str = torch.backends.cpu.get_cpu_capability()
    return f"{capability}, bf16" if has_fast_bfloat16() else capability
