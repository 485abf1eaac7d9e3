"""Requirements of tests on hardware and installed packages."""

import inspect

import pytest
import torch
from detectron2.data import build

from panet.utils.cpu import has_fast_bfloat16

BFLOAT16 = pytest.mark.skipif(
    not has_fast_bfloat16(), reason="needs a CPU with bfloat16 instructions"
)

NEWEST_DETECTRON2 = pytest.mark.skipif(
    "prefetch_factor" not in inspect.signature(build.build_batch_data_loader).parameters,
    reason="needs a newer detectron2",
)

DEVICES = [
    torch.device("cpu"),
    *([pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)] * torch.cuda.is_available()),
]
"""The available devices."""


def precisions(*dtypes: torch.dtype) -> list[object]:
    """Return parameters of a device and each of these dtypes that the device supports."""
    cpu = [d for d in dtypes if d != torch.float16 and (d != torch.bfloat16 or has_fast_bfloat16())]
    pairs: list[object] = [pytest.param(torch.device("cpu"), d, id=f"cpu-{d}") for d in cpu]
    if torch.cuda.is_available():
        cuda = torch.device("cuda")
        pairs += [pytest.param(cuda, d, id=f"cuda-{d}", marks=pytest.mark.gpu) for d in dtypes]
    return pairs


def gpus(count: int) -> pytest.MarkDecorator:
    """Skip a test if fewer GPUs are available."""
    return pytest.mark.skipif(torch.cuda.device_count() < count, reason=f"needs {count} GPU(s)")
