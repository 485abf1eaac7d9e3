"""MMDetPAFPN against a plain restatement of mmdetection's PAFPN, in double precision."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn
from torch.nn import functional as F

from panet.modeling import PAFPN, MMDetPAFPN

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
CHANNELS = 32


class AveragePyramid(Backbone):
    """A backbone without parameters that averages the image at each stride."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: F.avg_pool2d(x, stride) for name, stride in STRIDES.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(channels=3, stride=stride) for name, stride in STRIDES.items()}


def build(kind: type[PAFPN] = MMDetPAFPN, norm: str = "") -> PAFPN:
    """Build a pyramid with random parameters."""
    pyramid = kind(
        AveragePyramid(),
        list(STRIDES),
        out_channels=CHANNELS,
        norm=norm,
        top_block=LastLevelMaxPool(),
        path_norm=norm,
    )
    for parameter in pyramid.parameters():
        nn.init.normal_(parameter, std=0.3)
    return pyramid.double()


def conv(state: dict[str, Tensor], name: str, x: Tensor, stride: int = 1) -> Tensor:
    """mmdetection's ``ConvModule`` without activation: convolution, then group norm if present."""
    weight = state[f"{name}.weight"]
    x = F.conv2d(x, weight, state.get(f"{name}.bias"), stride, padding=weight.shape[-1] // 2)
    if f"{name}.norm.weight" in state:
        x = F.group_norm(x, 32, state[f"{name}.norm.weight"], state[f"{name}.norm.bias"])
    return x


def reference(state: dict[str, Tensor], images: Tensor) -> list[Tensor]:
    """Follow ``PAFPN.forward`` of mmdetection, level by level."""
    inputs = [F.avg_pool2d(images, stride) for stride in STRIDES.values()]
    laterals = [conv(state, f"fpn_lateral{i}", x) for i, x in enumerate(inputs, start=2)]
    for i in range(3, 0, -1):
        size = laterals[i - 1].shape[2:]
        laterals[i - 1] = laterals[i - 1] + F.interpolate(laterals[i], size=size, mode="nearest")
    inter = [conv(state, f"fpn_output{i}", x) for i, x in enumerate(laterals, start=2)]
    for i in range(3):
        inter[i + 1] = inter[i + 1] + conv(state, f"path_downsample.p{i + 2}", inter[i], stride=2)
    outputs = [inter[0]]
    outputs += [conv(state, f"path_output.p{i + 2}", inter[i]) for i in range(1, 4)]
    outputs.append(F.max_pool2d(outputs[-1], 1, stride=2))
    return outputs


@pytest.mark.parametrize("norm", ["", "GN"])
@pytest.mark.parametrize("size", [(64, 96), (32, 224)])
def test_equals_the_definition_of_mmdetection(norm: str, size: tuple[int, int]) -> None:
    pyramid = build(norm=norm)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    outputs = pyramid(images)
    assert list(outputs) == ["p2", "p3", "p4", "p5", "p6"]
    expected = reference(pyramid.state_dict(), images)
    for output, level in zip(outputs.values(), expected, strict=True):
        assert output.dtype == torch.float64
        torch.testing.assert_close(output, level, rtol=1e-10, atol=1e-10)


def test_there_is_no_relu() -> None:
    outputs = build()(torch.randn(1, 3, 64, 64, dtype=torch.float64))
    assert all((level < 0).any() for level in outputs.values())


def test_differs_from_the_paper_above_the_finest_level() -> None:
    ours, papers = build(), build(PAFPN)
    papers.load_state_dict(ours.state_dict())
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    outputs, others = ours(images), papers(images)
    assert torch.equal(outputs.pop("p2"), others["p2"])
    assert not any(torch.allclose(level, others[name]) for name, level in outputs.items())


def test_every_parameter_gets_a_gradient() -> None:
    pyramid = build(norm="GN")
    outputs = pyramid(torch.randn(1, 3, 64, 64, dtype=torch.float64))
    sum(level.square().sum() for level in outputs.values()).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in pyramid.parameters())


def test_from_a_config(tiny_cfg: CfgNode) -> None:
    tiny_cfg.MODEL.BACKBONE.NAME = "build_resnet_mmdet_pafpn_backbone"
    backbone = build_backbone(tiny_cfg)
    assert isinstance(backbone, MMDetPAFPN)
    outputs = backbone(torch.randn(1, 3, 64, 64))
    assert [tuple(level.shape[2:]) for level in outputs.values()] == [
        (16, 16),
        (8, 8),
        (4, 4),
        (2, 2),
        (1, 1),
    ]
