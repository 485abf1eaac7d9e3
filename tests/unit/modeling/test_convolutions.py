"""Convolutions with fewer passes, against detectron2's."""

import copy

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d, get_norm
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import nn

from panet.modeling.cpu.layers import (
    FrozenNormConv2d,
    activate_in_place,
    fold_frozen_norms,
    folded_parameters,
)


def randomize(module: nn.Module) -> None:
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            nn.init.uniform_(value, 0.5 if "var" in name else -0.5, 1.0)


def block() -> BottleneckBlock:
    module = BottleneckBlock(8, 16, bottleneck_channels=4, stride=2, norm="FrozenBN")
    randomize(module)
    return module


def test_folded_frozen_norms_train_as_before() -> None:
    plain = block()
    folded = copy.deepcopy(plain)
    fold_frozen_norms(folded)
    assert sum(isinstance(m, FrozenNormConv2d) for m in folded.modules()) == 4
    assert list(folded.state_dict()) == list(plain.state_dict())
    x = torch.randn(2, 8, 10, 12)
    expected = plain(x)
    torch.testing.assert_close(folded(x), expected)
    gradient = torch.randn_like(expected)
    for actual, reference in zip(
        torch.autograd.grad(folded(x), list(folded.parameters()), gradient),
        torch.autograd.grad(expected, list(plain.parameters()), gradient),
        strict=True,
    ):
        torch.testing.assert_close(actual, reference, rtol=1e-4, atol=1e-4)


def test_only_frozen_norms_are_folded_in_training() -> None:
    module = nn.Sequential(Conv2d(4, 4, 1, norm=get_norm("BN", 4)), Conv2d(4, 4, 1))
    fold_frozen_norms(module)
    assert [type(m) for m in module] == [Conv2d, Conv2d]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_folded_parameters_of_batch_norms(affine: bool, bias: bool) -> None:
    conv = Conv2d(4, 6, 3, bias=bias, norm=nn.BatchNorm2d(6, affine=affine)).eval()
    randomize(conv)
    x = torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(nn.functional.conv2d(x, *folded_parameters(conv)), conv(x))


def test_in_place_activations_train_as_before() -> None:
    plain = nn.Sequential(
        Conv2d(3, 32, 3, norm=get_norm("GN", 32), activation=nn.ReLU()),
        Conv2d(32, 4, 3, activation=nn.ReLU()),
        Conv2d(4, 4, 1, norm=FrozenBatchNorm2d(4)),
    )
    in_place = copy.deepcopy(plain)
    activate_in_place(in_place)
    assert [getattr(c.activation, "inplace", None) for c in in_place] == [True, True, None]
    x = torch.randn(2, 3, 8, 8)
    for module in (plain, in_place):
        module(x).square().sum().backward()
    torch.testing.assert_close(in_place(x), plain(x))
    for ours, reference in zip(in_place.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, reference.grad)
