"""The layers on each device in single precision, against double precision on the CPU."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import needs
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.structures import Boxes
from fvcore.nn import weight_init
from torch import Tensor, nn

from panet.modeling import AllLevelPooler, FusedFirstLayer, PANetBoxHead, PANetMaskHead
from panet.modeling.build import lay_out

pytestmark = pytest.mark.parametrize("device", needs.DEVICES)

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
ROIS, CHANNELS = 20, 32


def levels(size: int) -> Tensor:
    """What four levels of RoIs look like."""
    return torch.randn(len(SCALES), ROIS, CHANNELS, size, size)


def assert_same_as_in_double(
    module: nn.Module,
    inputs: Sequence[Tensor],
    device: torch.device,
    call: Callable[[Any, list[Tensor]], Tensor],
) -> None:
    """Compare outputs and the gradients by inputs and parameters.

    Args:
        module: on the CPU, in single precision.
        inputs: likewise.
        device: where to compute in single precision.
        call: what to compute of the module and the inputs.
    """
    results = []
    for dtype, place in ((torch.float64, torch.device("cpu")), (torch.float32, device)):
        copied = copy.deepcopy(module).to(place, dtype)
        own = [x.to(place, dtype).requires_grad_() for x in inputs]
        output = call(copied, own)
        assert output.device.type == place.type
        assert output.dtype == dtype
        weights = torch.rand(output.shape, generator=torch.Generator().manual_seed(1))
        (output * weights.to(output)).sum().backward()
        gradients = {f"input {i}": x.grad for i, x in enumerate(own)}
        gradients |= {name: p.grad for name, p in copied.named_parameters()}
        results.append({"output": output.detach(), **gradients})
    expected, actual = results
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        if value is None:
            assert actual[name] is None
            continue
        error = (actual[name].cpu().double() - value).norm() / value.norm().clamp(min=1e-9)
        # Rounding moves the gradient of an element that two levels are nearly equal in.
        assert error < (1e-5 if name == "output" else 1e-2), f"{name}: {error}"


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("channels_last", [False, True])
def test_pooler(device: torch.device, ratio: int, channels_last: bool) -> None:
    maps = [torch.randn(2, 5, int(96 * s), int(160 * s)) for s in SCALES]
    if channels_last:
        maps = [x.contiguous(memory_format=torch.channels_last) for x in maps]
    corners = torch.rand(2, ROIS, 2) * 120 - 20
    boxes = torch.cat([corners, corners + torch.rand(2, ROIS, 2) * 100], dim=2)

    def pool(pooler: AllLevelPooler, x: list[Tensor]) -> Tensor:
        return torch.stack(list(pooler(x, [Boxes(b.to(x[0].device)) for b in boxes])))

    assert_same_as_in_double(AllLevelPooler(7, SCALES, ratio), maps, device, pool)


@pytest.mark.parametrize("fusion", ["max", "sum"])
@pytest.mark.parametrize("position", ["after", "before"])
@pytest.mark.parametrize("recompute", [False, True])
def test_fusion(device: torch.device, fusion: str, position: str, recompute: bool) -> None:
    layer = nn.Conv2d(CHANNELS, 8, 3, padding=1)
    fused = FusedFirstLayer(
        layer, len(SCALES), weight_init.c2_msra_fill, fusion, position, recompute
    )
    assert_same_as_in_double(fused, [levels(5)], device, lambda module, x: module(x[0]))


@pytest.mark.parametrize("norm", ["", "GN"])
@pytest.mark.parametrize("heavier", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_box_head(device: torch.device, norm: str, heavier: bool, channels_last: bool) -> None:
    dims = {"conv_dims": [32] * 4 * heavier, "fc_dims": [64, 64][heavier:]}
    head = PANetBoxHead(ShapeSpec(channels=CHANNELS, height=7, width=7), **dims, conv_norm=norm)
    lay_out(head, channels_last)
    assert_same_as_in_double(head, [levels(7)], device, lambda module, x: module(x[0]))


@pytest.mark.parametrize("norm", ["", "GN"])
@pytest.mark.parametrize("all_classes", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_mask_head(device: torch.device, norm: str, all_classes: bool, channels_last: bool) -> None:
    shape = ShapeSpec(channels=CHANNELS, height=14, width=14)
    head = PANetMaskHead(shape, num_classes=5, conv_dims=[64] * 5, conv_norm=norm)
    nn.init.normal_(head.predictor.weight, std=0.1)
    lay_out(head, channels_last)
    classes = torch.arange(ROIS) % 5

    def logits(module: PANetMaskHead, x: list[Tensor]) -> Tensor:
        return module.layers(x[0], None if all_classes else classes.to(x[0].device))

    assert_same_as_in_double(head, [levels(14)], device, logits)


@pytest.mark.parametrize("norm", ["", "GN", "BN"])
@pytest.mark.parametrize("backbone_norm", ["FrozenBN", "BN"])
def test_pyramid(device: torch.device, tiny_cfg: CfgNode, norm: str, backbone_norm: str) -> None:
    tiny_cfg.MODEL.RESNETS.NORM = backbone_norm
    tiny_cfg.MODEL.FPN.NORM = tiny_cfg.MODEL.PAFPN.NORM = norm
    pyramid = lay_out(build_backbone(tiny_cfg), channels_last=True)

    def outputs(module: nn.Module, x: list[Tensor]) -> Tensor:
        return torch.cat([level.flatten() for level in module(x[0]).values()])

    assert_same_as_in_double(pyramid, [torch.randn(2, 3, 128, 160)], device, outputs)
