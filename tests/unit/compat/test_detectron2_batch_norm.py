"""Whether detectron2's batch norm still needs more precision for bfloat16."""

from functools import partial
from pathlib import Path

import pytest
import torch
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn import functional as F
from two_processes import run_in_two_processes

from panet.compat.detectron2_batch_norm import PreciseNaiveSyncBatchNorm

CHANNELS = 8


def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, CHANNELS, 16, 16, generator=generator) + 2


def share(norm: nn.Module, dtype: torch.dtype) -> Tensor:
    """Return the normalized images of this process."""
    share = images().chunk(comm.get_world_size())[comm.get_rank()]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = norm(share.to(dtype))
    output.float().sum().backward()
    return output


def normalize(folder: Path) -> None:
    results = {}
    for mode in ("", "N"):
        theirs = NaiveSyncBatchNorm(CHANNELS, stats_mode=mode)
        ours = PreciseNaiveSyncBatchNorm.like(theirs)
        assert ours._stats_mode == mode
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            for name, norm in (("theirs", theirs), ("ours", ours)):
                results[name, mode, dtype] = share(norm, dtype).detach()
    torch.save(results, folder / f"{comm.get_rank()}.pth")


def test_statistics_of_two_processes(tmp_path: Path) -> None:
    run_in_two_processes(normalize, tmp_path / "store", tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1))
    output = {key: torch.cat([first[key], second[key]]) for key in first}
    expected = F.batch_norm(images(), None, None, training=True)
    for mode in ("", "N"):
        for dtype in (torch.float32, torch.float64):
            theirs, ours = output["theirs", mode, dtype], output["ours", mode, dtype]
            assert ours.dtype == dtype
            assert torch.equal(ours, theirs)
            torch.testing.assert_close(ours.float(), expected, rtol=1e-4, atol=1e-4)
        theirs, ours = (output[name, mode, torch.bfloat16] for name in ("theirs", "ours"))
        assert ours.dtype == torch.bfloat16
        assert (ours.float() - expected).abs().max() < 0.03  # a rounded input gives 0.016
        assert (theirs.float() - expected).abs().max() > 0.05  # or ours is not needed any more


@pytest.mark.parametrize("kind", [NaiveSyncBatchNorm, PreciseNaiveSyncBatchNorm])
def test_states_are_interchangeable(kind: type[NaiveSyncBatchNorm]) -> None:
    norm = kind(CHANNELS, eps=0.1, momentum=0.2, affine=False, stats_mode="N")
    ours = PreciseNaiveSyncBatchNorm.like(norm)
    ours.load_state_dict(norm.state_dict())
    assert (ours.eps, ours.momentum, ours.affine, ours._stats_mode) == (0.1, 0.2, False, "N")


def test_a_single_process_uses_pytorchs_norm() -> None:
    ours, theirs = PreciseNaiveSyncBatchNorm(CHANNELS), nn.BatchNorm2d(CHANNELS)
    for run in (partial(share, dtype=torch.bfloat16), partial(share, dtype=torch.float32)):
        assert torch.equal(run(ours), run(theirs))
        assert torch.equal(run(ours.eval()), run(theirs.eval()))
        assert torch.equal(ours.running_var, theirs.running_var)
