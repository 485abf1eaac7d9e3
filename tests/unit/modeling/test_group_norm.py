"""Group normalization in low precision against PyTorch's in single precision."""

import copy
from unittest import mock

import pytest
import torch
from torch import nn

from panet.modeling.cpu.group_norm import (
    ContiguousGroupNorm,
    MatrixGroupNorm,
    convert_group_norms,
)


@pytest.mark.parametrize("shape", [(5, 64, 7, 9), (1, 64, 14, 14), (0, 64, 7, 7)])
@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_rounds_no_worse_than_pytorch(shape: tuple[int, ...], mean: float) -> None:
    norm = MatrixGroupNorm(32, 64)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    nn.init.normal_(norm.bias)
    norm = norm.bfloat16()
    x = (torch.randn(shape) + mean).bfloat16().to(memory_format=torch.channels_last)
    exact = nn.functional.group_norm(x.float(), 32, norm.weight.float(), norm.bias.float())
    with torch.no_grad():
        ours = (norm(x) - exact).abs().sum()
        pytorchs = (nn.GroupNorm.forward(norm, x) - exact).abs().sum()
    assert ours <= 2 * pytorchs


def test_other_precisions_are_pytorchs() -> None:
    norm = MatrixGroupNorm(32, 64)
    x = torch.randn(3, 64, 5, 5)
    assert torch.equal(norm(x), nn.GroupNorm.forward(norm, x))


@pytest.mark.parametrize("shape", [(3, 64, 7, 9), (0, 64, 7, 7)])
@pytest.mark.parametrize("channels_last", [True, False])
def test_trains_in_bfloat16(shape: tuple[int, ...], channels_last: bool) -> None:
    exact = nn.GroupNorm(32, 64)
    nn.init.uniform_(exact.weight, 0.5, 2.0)
    module = nn.Sequential(copy.deepcopy(exact))
    convert_group_norms(module, ContiguousGroupNorm)
    assert type(module[0]) is ContiguousGroupNorm
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(shape).bfloat16().contiguous(memory_format=memory_format).requires_grad_()
    precise = x.detach().float().requires_grad_()
    found, expected = module(x), exact(precise)
    assert len(x) == 0 or found.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(found, expected.bfloat16(), rtol=0.02, atol=0.02)
    gradient = torch.randn(shape).bfloat16()
    for actual, reference in zip(
        torch.autograd.grad(found, (x, *module.parameters()), gradient),
        torch.autograd.grad(expected, (precise, *exact.parameters()), gradient.float()),
        strict=True,
    ):
        torch.testing.assert_close(actual.float(), reference, rtol=0.02, atol=0.05)


def test_trains_on_maps_that_are_not_channels_last() -> None:
    norm = convert_group_norms(nn.GroupNorm(32, 64), ContiguousGroupNorm)
    x = torch.randn(3, 64, 7, 9).to(torch.bfloat16, memory_format=torch.channels_last)
    with mock.patch.object(nn.GroupNorm, "forward", side_effect=lambda given: given) as pytorchs:
        norm(x)
        with torch.no_grad():
            norm(x)
    contiguous = [call.args[0].is_contiguous() for call in pytorchs.call_args_list]
    assert contiguous == [True, False]


def test_training_in_single_precision_is_pytorchs() -> None:
    plain = nn.GroupNorm(32, 64)
    module = nn.Sequential(copy.deepcopy(plain))
    convert_group_norms(module, ContiguousGroupNorm)
    x = torch.randn(3, 64, 5, 5).to(memory_format=torch.channels_last).requires_grad_()
    for actual, reference in zip(
        torch.autograd.grad(module(x).square().sum(), (x, *module.parameters())),
        torch.autograd.grad(plain(x).square().sum(), (x, *plain.parameters())),
        strict=True,
    ):
        assert torch.equal(actual, reference)
