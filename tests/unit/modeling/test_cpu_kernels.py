"""What is computed another way on a CPU, against plain operations in double precision."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pytest
import torch
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock, ResNet
from paths import ROOT
from torch import Tensor, nn
from torch.nn import functional as F

from panet.compat import onednn
from panet.modeling.cpu import convolution, fused, weight_gradient, winograd
from panet.modeling.cpu.layers import FastConv2d, speed_up_convolutions
from panet.modeling.cpu.linear import linear
from panet.utils.cpu import AVX2_ONLY, has_fast_bfloat16


def channels_last(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 2e-5) -> None:
    """Compare with what is exact, to a part of the largest value."""
    assert actual.shape == expected.shape
    if expected.numel():
        assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("rois", [0, 1, 2, 33])
@pytest.mark.parametrize("features", [(7, 5), (48, 1), (1, 3), (512, 256)])
def test_linear(rois: int, features: tuple[int, int]) -> None:
    inputs, outputs = features
    tensors = [torch.randn(rois, inputs), torch.randn(outputs, inputs), torch.randn(outputs)]
    ours, exact = (
        [tensor.to(dtype).requires_grad_() for tensor in tensors]
        for dtype in (torch.float32, torch.float64)
    )
    output, expected = linear(*ours), F.linear(*exact)
    assert ("_Linear" in type(output.grad_fn).__name__) == (rois > 0)
    assert_close(output, expected)
    upstream = torch.randn(rois, outputs)
    for found, reference in zip(
        torch.autograd.grad(output, ours, upstream),
        torch.autograd.grad(expected, exact, upstream.double()),
        strict=True,
    ):
        assert_close(found, reference)
    with torch.no_grad():
        assert_close(linear(*ours), expected)


@pytest.mark.parametrize(
    ("dtype", "autocast"),
    [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)],
)
def test_linear_of_maps_that_are_channels_last(dtype: torch.dtype, autocast: bool) -> None:
    x, weight, bias = channels_last(20, 8, 3, 5).to(dtype), torch.randn(16, 120), torch.randn(16)
    if not autocast:
        weight, bias = weight.to(dtype), bias.to(dtype)
    ours = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    exact = [tensor.detach().double().requires_grad_() for tensor in ours]
    kept: list[int] = []

    def keep(saved: Tensor) -> Tensor:
        kept.append(saved.data_ptr())
        return saved

    with (
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved),
    ):
        output = linear(*ours)
    assert output.dtype == dtype
    assert x.data_ptr() in kept  # so that it can be pooled again instead
    expected = F.linear(exact[0].flatten(1), *exact[1:])
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    assert_close(output, expected, tolerance)
    upstream = torch.randn(20, 16).to(dtype)
    for found, reference in zip(
        torch.autograd.grad(output, ours, upstream),
        torch.autograd.grad(expected, exact, upstream.double()),
        strict=True,
    ):
        assert_close(found, reference, tolerance)


@pytest.mark.parametrize(
    "size", [(2, 2), (3, 7), (5, 5), (7, 7), (9, 13), (14, 14), (16, 17), (37, 51), (4, 100)]
)
@pytest.mark.parametrize("images", [1, 3])
def test_winograd(size: tuple[int, int], images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = channels_last(images, 6, *size), torch.randn(5, 6, 3, 3), torch.randn(5)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    # Once in one part, once in several.
    for cache in (winograd._CACHE_BYTES, 4096):
        monkeypatch.setattr(winograd, "_CACHE_BYTES", cache)
        output = winograd.convolve(x, weight, bias)
        assert output.is_contiguous(memory_format=torch.channels_last)
        assert_close(output, expected)


@pytest.mark.parametrize("compute", ["_by_strips", "_by_products"])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (23, 10), (9, 31)])
def test_weight_gradients(
    compute: str,
    kernel: int,
    stride: int,
    size: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weight_gradient, "_STRIP_BYTES", 2000)  # a few rows
    x, weight = channels_last(2, 4, *size), torch.randn(6, 4, kernel, kernel)
    exact = weight.double().requires_grad_()
    expected = F.conv2d(x.double(), exact, None, stride, kernel // 2)
    upstream = torch.randn(expected.shape).contiguous(memory_format=torch.channels_last)
    (reference,) = torch.autograd.grad(expected, exact, upstream.double())
    padding = (kernel // 2, kernel // 2)
    found = getattr(weight_gradient, compute)(x, weight, upstream, (stride, stride), padding)
    assert_close(found, reference)


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_train_as_before(
    stride: int, older: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (convolution, weight_gradient):
        monkeypatch.setattr(module, "has_avx2_only", lambda: older)
    monkeypatch.setattr(weight_gradient, "has_avx512", lambda: not older)
    for limit in ("_LARGE_WITH_AVX2", "_LARGE_WITH_AVX512"):
        monkeypatch.setattr(weight_gradient, limit, 0)
    monkeypatch.setattr(convolution, "_GRADIENT_CHANNELS", 4)
    monkeypatch.setattr(convolution, "_WINOGRAD_CHANNELS", 4)
    monkeypatch.setattr(convolution, "_WINOGRAD_PIXELS", 1)
    module = nn.Sequential(
        Conv2d(4, 32, 3, stride=stride, padding=1, bias=False, norm=get_norm("GN", 32)),
        Conv2d(32, 8, 3, stride=stride, padding=1, activation=nn.ReLU()),
    ).to(memory_format=torch.channels_last)
    x = channels_last(2, 4, 18, 21)
    exact_x = x.double().requires_grad_()
    exact = [p.detach().double().requires_grad_() for p in module.parameters()]
    state = dict(zip((name for name, _ in module.named_parameters()), exact, strict=True))
    expected = torch.func.functional_call(module.double(), state, exact_x)
    module.float()
    speed_up_convolutions(module)
    assert [type(m) for m in module] == [FastConv2d] * 2
    x.requires_grad_()
    with (
        mock.patch.object(convolution, "_convolve", wraps=convolution._convolve) as convolve,
        mock.patch.object(winograd, "convolve", wraps=winograd.convolve) as by_winograd,
    ):
        output = module(x)
    assert convolve.call_count == 2
    assert by_winograd.call_count == (2 if older and stride == 1 else 0)
    assert_close(output, expected)
    upstream = torch.randn(output.shape)
    for found, reference in zip(
        torch.autograd.grad(output, [x, *module.parameters()], upstream),
        torch.autograd.grad(expected, [exact_x, *exact], upstream.double()),
        strict=True,
    ):
        assert_close(found, reference, 1e-4)


def test_under_autocast_convolutions_round_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "is_slow", lambda x: True)
    monkeypatch.setattr(convolution, "_GRADIENT_CHANNELS", 8)
    x = channels_last(1, 8, 12, 12)
    conv = Conv2d(8, 8, 3, padding=1).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        expected = conv(x)
        fast = speed_up_convolutions(conv)
        with mock.patch.object(convolution, "_convolve", wraps=convolution._convolve) as convolve:
            output = fast(x)
    convolve.assert_called_once()
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, expected)
    assert conv.weight.grad is None
    output.float().sum().backward()
    assert conv.weight.grad.dtype == torch.float32


def resnet(*blocks: nn.Module) -> ResNet:
    """A backbone that also returns what its only stage reads."""
    stem = nn.Identity()
    stem.stride, stem.out_channels = 1, 8
    network = ResNet(stem, [list(blocks)], out_features=["stem", "res2"]).eval()
    network.requires_grad_(False)
    return network.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", [BasicBlock, BottleneckBlock])
@pytest.mark.parametrize("first_channels", [8, 16])
def test_fused_residual_blocks(kind: type[nn.Module], first_channels: int) -> None:
    options = {"bottleneck_channels": 4} if kind is BottleneckBlock else {}
    channels = [8, first_channels, first_channels, first_channels]
    network = resnet(*(kind(a, b, norm="", **options) for a, b in pairwise(channels)))
    x = channels_last(2, 8, 9, 11)
    unchanged = x.clone()
    expected = network.double()(x.double())
    network.float()
    fused.fuse_residual_blocks(network)
    assert all(isinstance(block, fused.FusedResidualBlock) for block in network.res2)
    with (
        torch.no_grad(),
        mock.patch.object(onednn, "add_conv2d_", wraps=onednn.add_conv2d_) as add,
    ):
        output = network(x)
    # The first block adds to its input, another output of the network, unless it has a shortcut.
    assert add.call_count == (2 if first_channels == 8 else 3)
    for name, reference in expected.items():
        assert_close(output[name], reference)
    assert torch.equal(x, unchanged)


def test_blocks_with_norms_are_left_alone() -> None:
    network = resnet(BasicBlock(8, 8, norm="BN"))
    fused.fuse_residual_blocks(network)
    assert type(network.res2[0]) is BasicBlock


def test_bfloat16_is_fast_where_onednn_says_so() -> None:
    assert has_fast_bfloat16() == torch.ops.mkldnn._is_mkldnn_bf16_supported()


@pytest.mark.skipif("IMITATED" in os.environ, reason="is what runs there")
@pytest.mark.slow
def test_on_an_older_cpu() -> None:
    """These tests, and those of the optimized model, as a CPU with AVX2 alone runs them."""
    files = [Path(__file__), ROOT / "tests" / "unit" / "test_deployment.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, files)]
    environment = {**os.environ, **AVX2_ONLY, "IMITATED": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:]
    assert " passed" in run.stdout
