"""PyTorch still has these operators, and they compute what they are said to."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panet.compat import onednn
from panet.utils.cpu import HAS_ONEDNN

pytestmark = pytest.mark.skipif(not HAS_ONEDNN, reason="PyTorch was built without oneDNN")

# No two alike, so that none can take another's place.
OPTIONS: dict[str, Any] = {"stride": (2, 1), "padding": (0, 3), "dilation": (4, 5), "groups": 2}


def channels_last(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("bias", [None, torch.arange(4.0)])
def test_linear(bias: Tensor | None) -> None:
    x, weight = torch.randn(5, 3), torch.randn(4, 3)
    torch.testing.assert_close(onednn.linear(x, weight, bias), F.linear(x, weight, bias))


def test_linear_of_transposed_operands() -> None:
    x, weight = torch.randn(3, 5), torch.randn(3, 4)
    torch.testing.assert_close(onednn.linear(x.t(), weight.t()), x.t() @ weight)


@pytest.mark.parametrize("bias", [False, True])
def test_convolutions(bias: bool) -> None:
    x, conv = channels_last(2, 4, 15, 17), nn.Conv2d(4, 6, 3, bias=bias, **OPTIONS)
    conv = conv.to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = F.conv2d(x, conv.weight, conv.bias, **OPTIONS)
        total = torch.randn_like(expected)
        torch.testing.assert_close(onednn.relu_of_conv2d(conv, x), expected.relu())
        for relu in (False, True):
            there = total.clone()
            found = onednn.add_conv2d_(there, conv, x, relu=relu)
            assert found.data_ptr() == there.data_ptr()
            summed = total + expected
            torch.testing.assert_close(found, summed.relu() if relu else summed)
