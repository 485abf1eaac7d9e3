"""Group normalization by matrix products against PyTorch's in single precision."""

import pytest
import torch
from torch import nn

from panet.modeling.group_norm import MatrixGroupNorm


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
