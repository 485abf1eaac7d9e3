"""The box and the mask head against re-statements of the paper's table of layers."""

from collections.abc import Sequence
from functools import reduce
from typing import Any
from unittest import mock

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes
from torch import Tensor, nn
from torch.nn import functional as F

from panet.modeling import AllLevelPooler, FusedFirstLayer, PANetBoxHead, PANetMaskHead
from panet.modeling.build import lay_out
from panet.modeling.cpu.first_layers import FastFullyConnected, PixelMajorFullyConnected
from panet.modeling.fully_connected import FullyConnected
from panet.utils.errors import UserError

LEVELS, ROIS, CHANNELS = 4, 3, 32
BOX_SHAPE = ShapeSpec(channels=CHANNELS, height=7, width=7)
MASK_SHAPE = ShapeSpec(channels=CHANNELS, height=14, width=14)
FUSIONS = {"max": torch.maximum, "sum": torch.add}


def conv_norm_relu(x: Tensor, conv: nn.Conv2d) -> Tensor:
    x = F.conv2d(x, conv.weight, conv.bias, padding=1)
    if conv.norm is not None:
        x = F.group_norm(x, 32, conv.norm.weight, conv.norm.bias)
    return x.relu()


def box_head(heavier: bool, **kwargs: object) -> PANetBoxHead:
    dims = (
        {"conv_dims": [32] * 4, "fc_dims": [16]}
        if heavier
        else {"conv_dims": [], "fc_dims": [16, 16]}
    )
    return PANetBoxHead(BOX_SHAPE, **dims, **kwargs)


def mask_head(**kwargs: object) -> PANetMaskHead:
    kwargs = {"num_classes": 5, "conv_dims": [64] * 5, "conv_norm": "GN", **kwargs}
    return PANetMaskHead(MASK_SHAPE, **kwargs)


def randomize(module: nn.Module) -> None:
    """Weights under which no two layers and no biases are alike."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.1)


@pytest.mark.parametrize("fusion", ["max", "sum"])
def test_2fc_box_head(fusion: str) -> None:
    head = box_head(heavier=False, fusion=fusion)
    randomize(head)
    x = torch.randn(LEVELS, ROIS, CHANNELS, 7, 7)
    first = [
        (x[i].reshape(ROIS, -1) @ fc.weight.flatten(1).T + fc.bias).relu()
        for i, fc in enumerate(head.fc1.levels)
    ]
    expected = F.linear(reduce(FUSIONS[fusion], first), head.fc2.weight, head.fc2.bias).relu()
    torch.testing.assert_close(head(x), expected)
    assert head.output_shape.channels == 16


@pytest.mark.parametrize("fusion", ["max", "sum"])
@pytest.mark.parametrize("norm", ["", "GN"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_fc_layers_of_all_levels_as_one_product(
    fusion: str, norm: str, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = PANetBoxHead(
        BOX_SHAPE, conv_dims=[], fc_dims=[64], fc_norm=norm, fusion=fusion, batched=True
    )
    randomize(head)
    lay_out(head, channels_last)
    x = torch.randn(LEVELS, ROIS, CHANNELS, 7, 7)
    expected = head(list(x))
    one_by_one = mock.Mock(side_effect=AssertionError)
    monkeypatch.setattr(type(head.fc1.levels[0]), "forward", one_by_one)
    torch.testing.assert_close(head(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fusion", ["max", "sum"])
@pytest.mark.parametrize("norm", ["", "GN"])
def test_heavier_box_head(fusion: str, norm: str) -> None:
    head = box_head(heavier=True, fusion=fusion, conv_norm=norm)
    randomize(head)
    x = torch.randn(LEVELS, ROIS, CHANNELS, 7, 7)
    first = [conv_norm_relu(x[i], conv) for i, conv in enumerate(head.conv1.levels)]
    y = reduce(FUSIONS[fusion], first)
    for conv in (head.conv2, head.conv3, head.conv4):
        y = conv_norm_relu(y, conv)
    expected = F.linear(y.flatten(1), head.fc1.weight.flatten(1), head.fc1.bias).relu()
    torch.testing.assert_close(head(x), expected)


def test_norms_of_the_fc_layers() -> None:
    head = PANetBoxHead(BOX_SHAPE, conv_dims=[], fc_dims=[64, 32], fc_norm="GN")
    randomize(head)
    x = torch.randn(LEVELS, ROIS, CHANNELS, 7, 7)

    def fc_norm_relu(x: Tensor, fc: FullyConnected) -> Tensor:
        x = F.linear(x.flatten(1), fc.weight.flatten(1), fc.bias)
        return F.group_norm(x, 32, fc.norm.weight, fc.norm.bias).relu()

    first = [fc_norm_relu(x[i], fc) for i, fc in enumerate(head.fc1.levels)]
    torch.testing.assert_close(head(x), fc_norm_relu(reduce(torch.maximum, first), head.fc2))
    heavier = PANetBoxHead(BOX_SHAPE, conv_dims=[32] * 4, fc_dims=[64], fc_norm="GN")
    assert isinstance(heavier.fc1.norm, nn.GroupNorm)
    assert heavier.conv1.levels[0].norm is None


@pytest.mark.parametrize("heavier", [False, True])
@pytest.mark.parametrize("fusion", ["max", "sum"])
def test_fusing_before_the_first_layer(heavier: bool, fusion: str) -> None:
    head = box_head(heavier, fusion=fusion, fusion_position="before")
    single = box_head(heavier, num_levels=1)
    single.load_state_dict(head.state_dict())
    x = torch.randn(LEVELS, ROIS, CHANNELS, 7, 7)
    torch.testing.assert_close(head(x), single(reduce(FUSIONS[fusion], x)[None]))


@pytest.mark.parametrize(("rois", "parts"), [(0, 1), (1, 1), (5, 3), (6, 3)])
def test_without_gradients_a_part_of_the_rois_at_a_time(rois: int, parts: int) -> None:
    head = box_head(heavier=True, conv_norm="GN")
    head.rois_at_a_time = 2
    randomize(head)
    pooler = AllLevelPooler(7, [1 / 4, 1 / 8, 1 / 16, 1 / 32], sampling_ratio=2)
    maps = [torch.randn(2, CHANNELS, 64 >> level, 64 >> level) for level in range(LEVELS)]
    corners = 200 * torch.rand(rois, 2)
    boxes = Boxes(torch.cat([corners, corners + 50], dim=1))
    levels = pooler(maps, [boxes[: rois // 2], boxes[rois // 2 :]])
    sizes: list[int] = []
    head.fc1.register_forward_hook(lambda _layer, inputs, _output: sizes.append(len(inputs[0])))
    expected = head(levels)
    with torch.no_grad():
        output = head(levels)
    assert len(sizes) == 1 + parts
    assert sum(sizes[1:]) == sizes[0] == rois
    torch.testing.assert_close(output, expected)


def test_the_levels_have_separate_weights_and_all_learn() -> None:
    for head, size in ((box_head(False), 7), (box_head(True), 7), (mask_head(), 14)):
        (fused,) = (m for m in head.modules() if isinstance(m, FusedFirstLayer))
        assert len(fused.levels) == LEVELS
        layers = head.layers if isinstance(head, PANetMaskHead) else head
        layers(torch.randn(LEVELS, 16, CHANNELS, size, size)).square().sum().backward()
        for i, layer in enumerate(fused.levels):
            assert layer.weight.grad.any()
            assert not any(torch.equal(layer.weight, other.weight) for other in fused.levels[:i])


@pytest.mark.parametrize("source", ["none", "conv2", "conv3", "conv4"])
@pytest.mark.parametrize("combination", ["sum", "product", "max"])
def test_mask_head(source: str, combination: str) -> None:
    head = mask_head(fc_source=source, fc_combination=combination)
    randomize(head)
    x = torch.randn(LEVELS, ROIS, CHANNELS, 14, 14)
    conv = [
        reduce(
            torch.maximum, [conv_norm_relu(x[i], c) for i, c in enumerate(head.mask_fcn1.levels)]
        )
    ]
    for layer in (head.mask_fcn2, head.mask_fcn3, head.mask_fcn4):
        conv.append(conv_norm_relu(conv[-1], layer))
    up = F.conv_transpose2d(conv[3], head.deconv.weight, head.deconv.bias, stride=2).relu()
    expected = F.conv2d(up, head.predictor.weight, head.predictor.bias)
    if source != "none":
        branch = head.fc_branch
        y = conv_norm_relu(
            conv_norm_relu(conv[int(source[-1]) - 1], branch.conv4_fc), branch.conv5_fc
        )
        assert y.shape[1] == 32
        fc = F.linear(y.flatten(1), branch.fc.weight.flatten(1), branch.fc.bias).view(ROIS, 28, 28)
        combine = {"sum": torch.add, "product": torch.mul, "max": torch.maximum}[combination]
        expected = torch.stack([combine(expected[:, c], fc) for c in range(5)], dim=1)
    torch.testing.assert_close(head.layers(x), expected, rtol=1e-4, atol=1e-4)


def test_the_branch_may_end_in_a_relu() -> None:
    head, without = mask_head(fc_relu=True), mask_head(fc_source="none")
    randomize(head)
    without.load_state_dict(head.state_dict(), strict=False)
    x = torch.randn(LEVELS, ROIS, CHANNELS, 14, 14)
    added = head.layers(x) - without.layers(x)
    assert (added > 1).any()
    assert (added > -1e-4).all()
    head.fc_branch.relu = False
    assert (head.layers(x) - without.layers(x) < -1).any()


@pytest.mark.parametrize("combination", ["sum", "product", "max"])
@pytest.mark.parametrize("rois_at_a_time", [None, 2])
def test_the_mask_of_one_class_is_that_among_all(
    combination: str, rois_at_a_time: int | None
) -> None:
    head = mask_head(fc_combination=combination)
    head.rois_at_a_time = rois_at_a_time
    randomize(head)
    x = torch.randn(LEVELS, ROIS, CHANNELS, 14, 14)
    classes = torch.tensor([3, 0, 4])
    of_all = head.layers(x)[torch.arange(ROIS), classes][:, None]
    torch.testing.assert_close(head.layers(x, classes), of_all, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fusion", ["max", "sum"])
@pytest.mark.parametrize("position", ["after", "before"])
def test_no_gradients_same_result_and_input_untouched(fusion: str, position: str) -> None:
    head = box_head(True, fusion=fusion, fusion_position=position)
    x = torch.randn(LEVELS, ROIS, CHANNELS, 7, 7)
    before, expected = x.clone(), head(x)
    with torch.no_grad():
        torch.testing.assert_close(head(x), expected)
    assert torch.equal(x, before)


def gradients(output: Tensor, head: nn.Module, *inputs: Tensor) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(output.shape, generator=generator)
    wanted = [*inputs, *(p for p in head.parameters())]
    return list(torch.autograd.grad(output, wanted, gradient, allow_unused=True))


def assert_same(actual: list[Tensor | None], expected: list[Tensor | None]) -> None:
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fusion", ["max", "sum"])
def test_gradient_of_the_fusion(fusion: str) -> None:
    head = box_head(heavier=False, fusion=fusion)
    randomize(head)
    x = torch.randn(LEVELS, ROIS, CHANNELS, 7, 7, requires_grad=True)
    first = [(fc(x[i])).relu() for i, fc in enumerate(head.fc1.levels)]
    expected = F.linear(reduce(FUSIONS[fusion], first), head.fc2.weight, head.fc2.bias).relu()
    assert_same(gradients(head(x), head, x), gradients(expected, head, x))


@pytest.mark.parametrize("rois_at_a_time", [None, 16])
def test_gradient_of_the_mask_of_one_class(rois_at_a_time: int | None) -> None:
    head = mask_head()
    head.rois_at_a_time = rois_at_a_time
    randomize(head)
    x = torch.randn(LEVELS, 40, CHANNELS, 14, 14, requires_grad=True)
    classes = torch.arange(40) % 5
    of_all = head.layers(x)[torch.arange(40), classes][:, None]
    assert_same(gradients(head.layers(x, classes), head, x), gradients(of_all, head, x))


class PoolingCounter(Sequence[Tensor]):
    """Levels that count how often they are asked for."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.count = x, 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        self.count += 1
        return self.x[index]


@pytest.mark.parametrize("fusion", ["max", "sum"])
@pytest.mark.parametrize("position", ["after", "before"])
def test_pooling_again_in_the_backward_pass(fusion: str, position: str) -> None:
    head = box_head(True, fusion=fusion, fusion_position=position)
    randomize(head)
    x = torch.randn(LEVELS, ROIS, CHANNELS, 7, 7, requires_grad=True)
    expected = gradients(head(x), head, x)
    head.conv1.recompute = True
    levels = PoolingCounter(x)
    output = head(levels)
    pooled_once = levels.count
    assert_same(gradients(output, head, x), expected)
    if (fusion, position) != ("sum", "before"):  # a sum needs none of them
        assert levels.count > pooled_once
    with torch.no_grad():
        head(x)


@pytest.mark.parametrize("kind", [FullyConnected, FastFullyConnected, PixelMajorFullyConnected])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fully_connected_is_linear_with_its_state(
    kind: type[Any], channels_last: bool, dtype: torch.dtype
) -> None:
    layer = FullyConnected(BOX_SHAPE, 16).to(dtype)
    x = torch.randn(ROIS, CHANNELS, 7, 7, dtype=dtype)
    linear = nn.Linear(CHANNELS * 49, 16, dtype=dtype)
    layer.load_state_dict(linear.state_dict())
    if kind is not FullyConnected:
        layer = kind.of(layer)
    if kind is not PixelMajorFullyConnected:
        assert layer.state_dict().keys() == linear.state_dict().keys()
        assert all(torch.equal(layer.state_dict()[k], v) for k, v in linear.state_dict().items())
    if channels_last:
        layer, x = (thing.to(memory_format=torch.channels_last) for thing in (layer, x))
    torch.testing.assert_close(layer(x), linear(x.flatten(1)))
    assert layer(x[:0]).shape == (0, 16)


@pytest.mark.parametrize("norm", ["", "GN", "BN"])
@pytest.mark.parametrize("kind", [FullyConnected, FastFullyConnected])
def test_fully_connected_computes_by_the_parameters_that_it_is_given(
    kind: type[Any], norm: str
) -> None:
    layer, other = (FullyConnected(BOX_SHAPE, 128, norm) for _ in range(2))
    randomize(other)
    if kind is not FullyConnected:
        layer = kind.of(layer)
    x = torch.randn(ROIS, CHANNELS, 7, 7).to(memory_format=torch.channels_last)
    output = torch.func.functional_call(layer, other.state_dict(), x)
    torch.testing.assert_close(output, other(x), rtol=1e-4, atol=1e-4)


def test_a_weight_by_pixel_takes_no_other_order() -> None:
    layer = FullyConnected(BOX_SHAPE, 16)
    with pytest.raises(RuntimeError, match="weight_by_pixel"):
        PixelMajorFullyConnected.of(layer).load_state_dict(layer.state_dict())


def test_class_agnostic_masks() -> None:
    logits = mask_head(num_classes=1).layers(torch.randn(LEVELS, ROIS, CHANNELS, 14, 14))
    assert logits.shape == (ROIS, 1, 28, 28)


@pytest.mark.parametrize("norm", ["", "GN", "BN", "SyncBN", "naiveSyncBN"])
def test_no_rois_in_training(norm: str) -> None:
    for head, size in ((box_head(True, conv_norm=norm), 7), (mask_head(conv_norm=norm), 14)):
        layers = head.layers if isinstance(head, PANetMaskHead) else head
        layers(torch.zeros(LEVELS, 0, CHANNELS, size, size)).sum().backward()
        # Parameters without a gradient would stall DistributedDataParallel.
        assert all(p.grad is not None for p in head.parameters())
        assert all(buffer.isfinite().all() for buffer in head.buffers())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: box_head(True, fusion="mean"), r"FUSION is 'mean'.*'max', 'sum'"),
        (
            lambda: box_head(True, fusion_position="never"),
            r"POSITION is 'never'.*'after', 'before'",
        ),
        (lambda: box_head(True, conv_norm="batch"), r"ROI_BOX_HEAD\.NORM is 'batch'.*'GN'"),
        (lambda: mask_head(conv_norm="batch"), r"ROI_MASK_HEAD\.NORM is 'batch'.*'GN'"),
        (lambda: mask_head(fc_source="conv5"), r"SOURCE is 'conv5'.*'none', 'conv2'"),
        (lambda: mask_head(fc_combination="mean"), r"COMBINATION is 'mean'.*'product'"),
        (lambda: mask_head(conv_dims=[64] * 3), r"NUM_CONV is 2.*at least 3"),
        (lambda: PANetBoxHead(BOX_SHAPE, conv_dims=[32], fc_dims=[]), r"NUM_FC must be at least 1"),
    ],
)
def test_wrong_values_are_refused_with_the_allowed_ones(build: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()
