"""Pooling from all levels against torchvision's RoIAlign and against a plain loop."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import Tensor, nn
from torchvision.ops import roi_align

from panet.modeling import AllLevelPooler, AssignedLevelPooler
from panet.modeling.pooler import FastAllLevelPooler, PooledLevels, pool_level

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
HEIGHT, WIDTH = 96, 160


def levels(images: int = 2, channels: int = 5, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [
        torch.randn(images, channels, int(HEIGHT * s), int(WIDTH * s)).to(dtype).requires_grad_()
        for s in SCALES
    ]


def random_boxes(count: int) -> Tensor:
    """Boxes of all sizes, many of them partly or wholly outside the image, some without area."""
    center = torch.rand(count, 2, dtype=torch.float64) * torch.tensor([2 * WIDTH, 2 * HEIGHT])
    center -= torch.tensor([WIDTH / 2, HEIGHT / 2])
    size = torch.rand(count, 2, dtype=torch.float64) ** 3 * 2 * WIDTH
    size[: count // 10] = 0
    return torch.cat([center - size / 2, center + size / 2], dim=1)


def torchvision_pooling(
    x: list[Tensor], boxes: list[Tensor], ratio: int, aligned: bool, size: int = 7
) -> Tensor:
    return torch.stack(
        [roi_align(f, boxes, size, s, ratio, aligned) for f, s in zip(x, SCALES, strict=True)]
    )


def loop_pooling(feature: Tensor, box: Tensor, scale: float, size: int, ratio: int) -> Tensor:
    """Aligned RoIAlign of one box from one (C, H, W) map, written out."""
    _, height, width = feature.shape
    x0, y0, x1, y1 = (box * scale - 0.5).tolist()
    pooled = torch.zeros(feature.shape[0], size, size, dtype=feature.dtype)
    for bin_y in range(size):
        for bin_x in range(size):
            for k in range(ratio * ratio):
                y = y0 + (y1 - y0) * (bin_y + (k // ratio + 0.5) / ratio) / size
                x = x0 + (x1 - x0) * (bin_x + (k % ratio + 0.5) / ratio) / size
                if not (-1 <= y <= height and -1 <= x <= width):
                    continue
                y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                for row in {math.floor(y), math.ceil(y)}:
                    for column in {math.floor(x), math.ceil(x)}:
                        weight = (1 - abs(y - row)) * (1 - abs(x - column))
                        pooled[:, bin_y, bin_x] += weight * feature[:, row, column] / ratio**2
    return pooled


def pool(pooler: AllLevelPooler, x: list[Tensor], boxes: list[Tensor]) -> Tensor:
    return torch.stack(list(pooler(x, [Boxes(b) for b in boxes])))


both_poolers = pytest.mark.parametrize("kind", [AllLevelPooler, FastAllLevelPooler])


@both_poolers
@pytest.mark.parametrize("pooler_type", ["ROIAlign", "ROIAlignV2"])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_equals_torchvision_forward_and_backward(
    kind: type[AllLevelPooler], pooler_type: str, ratio: int, memory_format: torch.memory_format
) -> None:
    x = [f.detach().to(memory_format=memory_format).requires_grad_() for f in levels()]
    boxes = [random_boxes(60).float(), random_boxes(41).float()]
    pooled = pool(kind(7, SCALES, ratio, pooler_type), x, boxes)
    reference = torchvision_pooling(
        x, [b.double() for b in boxes], ratio, pooler_type == "ROIAlignV2"
    )
    torch.testing.assert_close(pooled, reference)
    gradient = torch.randn_like(reference)
    for actual, expected in zip(
        torch.autograd.grad(pooled, x, gradient),
        torch.autograd.grad(reference, x, gradient),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected)


@both_poolers
def test_equals_a_loop_over_samples(kind: type[AllLevelPooler]) -> None:
    x = levels(images=1, channels=2)
    boxes = random_boxes(12).float().double()
    pooled = pool(kind(3, SCALES, 2), x, [boxes])
    for level, (feature, scale) in enumerate(zip(x, SCALES, strict=True)):
        for index, box in enumerate(boxes):
            expected = loop_pooling(feature[0].detach(), box, scale, 3, 2)
            torch.testing.assert_close(pooled[level, index].detach(), expected)


@both_poolers
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_keeps_exact_coordinates(
    kind: type[AllLevelPooler], dtype: torch.dtype
) -> None:
    x = levels(dtype=dtype)
    boxes = [random_boxes(50).float(), random_boxes(3).float()]
    pooled = pool(kind(7, SCALES, 2), x, boxes)
    assert pooled.dtype == dtype
    exact = [f.detach().double().requires_grad_() for f in x]
    reference = torchvision_pooling(exact, [b.double() for b in boxes], 2, True)
    eps = torch.finfo(dtype).eps
    # Coordinates are in single precision at least.
    tolerance = {"rtol": 4 * eps, "atol": 10 * eps + 2e-5}
    torch.testing.assert_close(pooled.double(), reference, **tolerance)
    gradient = torch.randn_like(pooled)
    for actual, expected in zip(
        torch.autograd.grad(pooled, x, gradient),
        torch.autograd.grad(reference, exact, gradient.double()),
        strict=True,
    ):
        # A pixel sums many bins.
        tolerance["atol"] = (eps + 1e-5) * expected.abs().max().item()
        torch.testing.assert_close(actual.double(), expected, **tolerance)


@both_poolers
@pytest.mark.parametrize("ratio", [0, 2])
def test_no_boxes(kind: type[AllLevelPooler], ratio: int) -> None:
    x = levels(dtype=torch.float32)
    pooled = pool(kind(7, SCALES, ratio), x, [torch.zeros(0, 4)] * 2)
    assert pooled.shape == (4, 0, 5, 7, 7)
    pooled.sum().backward()
    assert all(not f.grad.any() for f in x)


def test_boxes_that_are_not_finite_give_zeros() -> None:
    boxes = torch.tensor([[0, 0, math.nan, 9], [-math.inf, 0, 9, 9], [0, math.inf, 9, math.inf]])
    assert not pool(FastAllLevelPooler(7, SCALES, 2), levels(1), [boxes]).any()


def test_levels_are_pooled_when_asked_for() -> None:
    x = levels(images=1)
    levels_pooled = AllLevelPooler(7, SCALES, 2)(x, [Boxes(random_boxes(5))])
    assert len(levels_pooled) == 4
    assert torch.equal(levels_pooled[-1], levels_pooled[3])
    assert torch.equal(levels_pooled[2:][0], levels_pooled[2])
    with pytest.raises(IndexError):
        levels_pooled[4]


def test_a_fast_pooler_is_that_of_another() -> None:
    for pooler in (
        AllLevelPooler(7, SCALES, 2),
        AllLevelPooler(14, SCALES[1:], 0, "ROIAlign", batched=True),
    ):
        fast = FastAllLevelPooler.of(pooler)
        assert (fast.grids, fast.batched) == (pooler.grids, pooler.batched)


@pytest.fixture
def pooled_levels() -> PooledLevels:
    boxes = [Boxes(random_boxes(5)), Boxes(random_boxes(3))]
    return AllLevelPooler(7, SCALES, 2)(levels(), boxes)


USES: dict[str, Callable[[Any], Any]] = {
    "mean over levels": lambda x: x.mean(0),
    "maximum over levels": lambda x: torch.amax(x, dim=0),
    "one RoI": lambda x: x[1:3, 4] if isinstance(x, Tensor) else x[1:3].stack()[:, 4],
    "a RoI of all levels": lambda x: x[:, 4],
    "a mask of RoIs": lambda x: x[1][torch.arange(8) % 2 == 0],
    "concatenated": lambda x: torch.cat([x, x], dim=1),
    "stacked": lambda x: torch.stack((x, x)),
    "flattened by a layer": lambda x: nn.Flatten(2)(x),
    "through a module": lambda x: nn.ReLU()(x).sum(0),
    "a function's keyword": lambda x: torch.mul(input=x, other=x),
    "arithmetic": lambda x: 2 * x + 1 - x / 3 + (1 - x) * x - x,
    "with a tensor": lambda x: torch.ones(7) * x + torch.arange(7) - x,
    "converted": lambda x: x.to(torch.float32),
    "size": lambda x: (x.size(), x.size(1), x.shape, x.dim(), x.numel(), len(x)),
    "dtype and device": lambda x: (x.dtype, x.device),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_what_is_pooled_stands_in_for_a_tensor(
    pooled_levels: PooledLevels, use: Callable[[Any], Any]
) -> None:
    found, expected = use(pooled_levels), use(torch.stack(list(pooled_levels)))
    assert type(found) is type(expected)
    assert torch.equal(found, expected) if isinstance(found, Tensor) else found == expected


def test_gradients_reach_the_maps_through_the_stack(pooled_levels: PooledLevels) -> None:
    found, expected = (
        torch.autograd.grad((x.mean(0) * torch.arange(7)).sum(), pooled_levels.x)
        for x in (pooled_levels, torch.stack(list(pooled_levels)))
    )
    assert all(map(torch.equal, found, expected))


def test_shape_dtype_and_device_pool_nothing(pooled_levels: PooledLevels) -> None:
    pooled_levels.pool = mock.Mock(side_effect=AssertionError)
    assert pooled_levels.shape == pooled_levels.size() == (4, 8, 5, 7, 7)
    assert pooled_levels.size(1) == 8
    assert pooled_levels.dtype == torch.float64
    assert pooled_levels.device == torch.device("cpu")
    assert pooled_levels[1:].shape == (3, 8, 5, 7, 7)
    assert not hasattr(pooled_levels, "pooled")


def test_what_is_pooled_is_copied_and_pickled_unpooled(pooled_levels: PooledLevels) -> None:
    detached = [level.detach() for level in pooled_levels.x]
    levels = PooledLevels(detached, pooled_levels.rois, pooled_levels.grids, pool_level)
    for copied in (copy.deepcopy(levels), pickle.loads(pickle.dumps(levels))):
        assert type(copied) is PooledLevels
        assert torch.equal(copied.stack(), levels.stack())


def test_all_levels_in_one_tensor() -> None:
    x, boxes = levels(), [Boxes(random_boxes(5)), Boxes(random_boxes(3))]
    pooled = AllLevelPooler(7, SCALES, 2, batched=True)(x, boxes)
    assert isinstance(pooled, Tensor)
    assert torch.equal(pooled, torch.stack(list(AllLevelPooler(7, SCALES, 2)(x, boxes))))


def test_rotated_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match="'ROIAlignRotated'.*'ROIAlignV2'"):
        AllLevelPooler(7, SCALES, 2, "ROIAlignRotated")


def test_assigned_level_pooling_is_detectron2s() -> None:
    x = levels(dtype=torch.float32)
    boxes = [Boxes(random_boxes(30).float()), Boxes(random_boxes(10).float())]
    pooled = AssignedLevelPooler(7, SCALES, 2, "ROIAlignV2")(x, boxes)
    torch.testing.assert_close(pooled[0], ROIPooler(7, SCALES, 2, "ROIAlignV2")(x, boxes))
    assert len(pooled) == 1
