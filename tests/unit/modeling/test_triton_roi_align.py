"""The Triton kernel against torchvision's RoIAlign in double precision.

On CUDA the kernel runs compiled. Without, these tests run once more in a process of their own,
where Triton interprets it.
"""

import math
import os
import subprocess
import sys

import pytest
import torch
from paths import ROOT
from torch import Tensor
from torchvision.ops import roi_align

from panet.modeling.cpu.roi_align import Grid

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from panet.modeling.triton_roi_align import _kernel, triton_roi_align  # noqa: E402

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
HEIGHT, WIDTH = 40, 56

runs_kernel = pytest.mark.gpu if CUDA else pytest.mark.skipif(not INTERPRETED, reason="needs a GPU")

ROIS = [
    [0, 3, 5, 29, 27],
    [1, 0, 8, 48, 32],  # as many whole pixels in each bin
    [1, -20, -9, 21, 14],  # partly outside
    [0, 30.3, 20.1, 70, 50],
    [0, -2.5, 39.5, 60, 44],
    [1, 90, 80, 120, 99],  # wholly outside
    [0, -90, -70, -50, -60],
    [1, 13, 9, 13, 9],  # without area
    [0, 7.25, 20, 7.25, 31],
]


def grids(count: int = 2, bins: int = 2, samples: int = 2, aligned: bool = True) -> list[Grid]:
    return [Grid(bins, samples, 1 / 4 / 2**level, aligned) for level in range(count)]


def levels(
    count: int = 2,
    channels: int = 5,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.channels_last,
) -> list[Tensor]:
    return [
        torch.randn(2, channels, math.ceil(HEIGHT * grid.scale), math.ceil(WIDTH * grid.scale))
        .to(DEVICE, dtype, memory_format=memory_format)
        .requires_grad_()
        for grid in grids(count)
    ]


def check(
    x: list[Tensor], grids: list[Grid], rois: Tensor | None = None, contiguous: bool = False
) -> None:
    """Compare output and gradients, those upstream channels-last unless they are ``contiguous``."""
    rois = torch.tensor(ROIS) if rois is None else rois
    dtype, channels = x[0].dtype, x[0].shape[1]
    pooled = triton_roi_align(x, rois.to(DEVICE), grids)
    assert pooled.dtype == dtype
    assert pooled.shape == (len(x), len(rois), channels, grids[0].bins, grids[0].bins)
    assert all(level.is_contiguous(memory_format=torch.channels_last) for level in pooled)
    upstream = torch.randn_like(pooled)
    gradients = torch.autograd.grad(pooled, x, upstream.contiguous() if contiguous else upstream)

    exact = [level.detach().double().cpu().requires_grad_() for level in x]
    expected = torch.stack(
        [
            roi_align(level, rois.double(), grid.bins, grid.scale, grid.samples, grid.aligned)
            for level, grid in zip(exact, grids)
        ]
    )
    # Coordinates are in single precision.
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(pooled.double().cpu(), expected, rtol=eps, atol=2e-5)
    references = torch.autograd.grad(expected, exact, upstream.double().cpu())
    for level, gradient, reference in zip(x, gradients, references, strict=True):
        assert gradient.dtype == dtype
        assert gradient.is_contiguous(memory_format=torch.channels_last)
        assert gradient.device == level.device
        # A pixel sums many samples.
        atol = 2e-5 * reference.abs().max().item()
        torch.testing.assert_close(gradient.double().cpu(), reference, rtol=eps, atol=atol)


@runs_kernel
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("samples", [0, 1, 2, 3])
def test_equals_torchvision(samples: int, aligned: bool) -> None:
    check(levels(), grids(samples=samples, aligned=aligned))


@runs_kernel
@pytest.mark.parametrize("bins", [1, 3])
def test_any_output_size(bins: int) -> None:
    check(levels(), grids(bins=bins, samples=1))


@runs_kernel
def test_any_memory_format() -> None:
    contiguous, channels_last = levels(memory_format=torch.contiguous_format), levels()
    check([contiguous[0], channels_last[1]], grids(), contiguous=True)


@runs_kernel
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("samples", [0, 2])
def test_lower_precision_rounds_only_the_result(dtype: torch.dtype, samples: int) -> None:
    check(levels(dtype=dtype), grids(samples=samples))


@runs_kernel
@pytest.mark.parametrize("count", [1, 3, 4, 5])
def test_any_number_of_levels(count: int) -> None:
    check(levels(count), grids(count))


@runs_kernel
@pytest.mark.parametrize("channels", [1, 64, 130, 300])
def test_any_number_of_channels(channels: int) -> None:
    check(levels(channels=channels), grids())


@runs_kernel
@pytest.mark.parametrize("samples", [0, 2])
def test_random_boxes(samples: int) -> None:
    start = torch.rand(12, 2) * torch.tensor([WIDTH, HEIGHT])
    rois = torch.cat([torch.arange(12)[:, None] % 2, start, start + torch.rand(12, 2) * 40], dim=1)
    check(levels(), grids(samples=samples), rois)


@runs_kernel
@pytest.mark.parametrize("samples", [0, 2])
def test_no_boxes(samples: int) -> None:
    check(levels(), grids(samples=samples), torch.zeros(0, 5))


@runs_kernel
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("samples", [0, 2])
def test_boxes_that_are_not_finite_give_zeros(samples: int, aligned: bool) -> None:
    x = levels()
    finite = torch.tensor([1.0, 2, 3, 20, 30])
    rois = finite.repeat(16, 1)
    for column in range(5):
        for row, value in enumerate((math.nan, math.inf, -math.inf)):
            rois[3 * column + row, column] = value
    pooled = triton_roi_align(x, rois.to(DEVICE), grids(samples=samples, aligned=aligned))
    assert not pooled[:, :15].any()
    alone = triton_roi_align(x, finite[None].to(DEVICE), grids(samples=samples, aligned=aligned))
    assert torch.equal(pooled[:, 15:], alone)
    for gradient, expected in zip(
        torch.autograd.grad(pooled.sum(), x), torch.autograd.grad(alone.sum(), x), strict=True
    ):
        torch.testing.assert_close(gradient, expected)


@runs_kernel
def test_samples_outside_read_nothing() -> None:
    x = [torch.full_like(level, math.inf) for level in levels()]
    rois = torch.tensor(ROIS[5:7], device=DEVICE)
    assert not triton_roi_align(x, rois, grids()).any()


@runs_kernel
def test_samples_at_the_border_read_nothing_beyond() -> None:
    x = [level.detach() for level in levels()]
    for level in x:
        level[1] = math.inf
    rois = torch.tensor([[0.0, 0, 0, WIDTH, HEIGHT], [0, 40, 30, 60, 40]], device=DEVICE)
    assert triton_roi_align(x, rois, grids(samples=3)).isfinite().all()


@runs_kernel
def test_keeps_only_the_rois() -> None:
    kept = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape)
        return tensor

    rois = torch.tensor(ROIS[:2], device=DEVICE)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        triton_roi_align(levels(), rois, grids())
    assert kept == [rois.shape]


@pytest.mark.parametrize("wrong", [grids(3), [*grids(1), Grid(2, 2, 1 / 8, False)]])
def test_grids_that_do_not_fit_are_refused(wrong: list[Grid]) -> None:
    with pytest.raises(ValueError, match="2 levels need 2 grids that differ in scale only"):
        triton_roi_align(levels(), torch.zeros(0, 5, device=DEVICE), wrong)


@pytest.mark.skipif(INTERPRETED, reason="takes compiled functions")
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("count", [1, 5])
def test_compiles_for_a_gpu(count: int, samples: int, backward: bool) -> None:
    """The interpreter takes more than the compiler does."""
    maps, floats = ("*fp32" if backward else "*fp16",) * count, ("fp32",) * count
    constants = (256, 7, samples, False, backward, 4, 256)
    types = (maps, "*fp32", "*fp16", floats, floats, floats, *["constexpr"] * len(constants))
    source = ASTSource(
        _kernel,
        dict(zip(_kernel.arg_names, types, strict=True)),
        {(6 + index,): constant for index, constant in enumerate(constants)},
        {(0, level): [["tt.divisibility", 16]] for level in range(count)},
    )
    assert triton.compile(source, GPUTarget("cuda", 90, 32), {"enable_fp_fusion": True}).asm[
        "cubin"
    ]


@pytest.mark.skipif(CUDA or INTERPRETED, reason="is what runs there")
@pytest.mark.slow
def test_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:]
    assert " passed" in run.stdout
