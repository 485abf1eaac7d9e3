"""The pyramid against a re-statement of its definition, and under other detectors."""

from unittest import mock

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, Backbone, build_backbone, build_model
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn
from torch.nn import functional as F

from panet.compat import onednn
from panet.modeling import PAFPN

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class AveragePyramid(Backbone):
    """A backbone with nothing to learn: the image averaged at each stride."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: F.avg_pool2d(x, stride) for name, stride in STRIDES.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(channels=3, stride=stride) for name, stride in STRIDES.items()}


def build(norm: str = "", path_norm: str = "", path_bias: bool = False) -> PAFPN:
    return PAFPN(
        AveragePyramid(),
        list(STRIDES),
        out_channels=32,
        norm=norm,
        top_block=LastLevelMaxPool(),
        path_norm=path_norm,
        path_bias=path_bias,
    )


def stock_fpn(pafpn: PAFPN, norm: str) -> FPN:
    """detectron2's FPN with the weights of the one inside ``pafpn``."""
    fpn = FPN(AveragePyramid(), list(STRIDES), out_channels=32, norm=norm)
    shared = {k: v for k, v in pafpn.state_dict().items() if not k.startswith("path_")}
    fpn.load_state_dict(shared)
    return fpn


def reference_path(pafpn: PAFPN, p: list[Tensor]) -> list[Tensor]:
    """N2 = P2; N(i+1) = act(conv3x3(act(conv3x3_stride2(N(i))) + P(i+1)))."""

    def act(x: Tensor, conv: nn.Conv2d, stride: int) -> Tensor:
        x = F.conv2d(x, conv.weight, conv.bias, stride=stride, padding=1)
        if isinstance(conv.norm, nn.GroupNorm):
            x = F.group_norm(x, 32, conv.norm.weight, conv.norm.bias)
        return x.clamp(min=0)

    n = [p[0]]
    for i in (2, 3, 4):
        down = act(n[-1], pafpn.path_downsample[f"p{i}"], stride=2)
        n.append(act(down + p[i - 1], pafpn.path_output[f"p{i + 1}"], stride=1))
    return n


@pytest.mark.parametrize("fuse_type", ["sum", "avg"])
@pytest.mark.parametrize("norm", ["", "GN"])
@pytest.mark.parametrize("grad", [False, True])
def test_the_top_down_path_is_that_of_detectron2(fuse_type: str, norm: str, grad: bool) -> None:
    pafpn = PAFPN(AveragePyramid(), list(STRIDES), 32, norm=norm, fuse_type=fuse_type)
    pafpn.to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 64, 96).contiguous(memory_format=torch.channels_last)
    expected = FPN.forward(pafpn, images)
    with (
        torch.set_grad_enabled(grad),
        mock.patch.object(onednn, "add_conv2d_", wraps=onednn.add_conv2d_) as add,
    ):
        levels = pafpn.top_down(pafpn.bottom_up(images))
    assert add.call_count == (0 if grad or norm else 3)  # laterals with another one above
    assert list(levels) == list(expected) == ["p2", "p3", "p4", "p5"]
    for name, level in levels.items():
        torch.testing.assert_close(level, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("norm", "bias"), [("", False), ("GN", False), ("GN", True)])
@pytest.mark.parametrize("size", [(64, 96), (32, 224)])
def test_equals_its_definition(norm: str, bias: bool, size: tuple[int, int]) -> None:
    pafpn = build(norm, norm, bias)
    biases = [conv.bias for conv in pafpn.path_output.values()]
    assert all((b is not None) == (bias or norm == "") for b in biases)
    for parameter in pafpn.parameters():
        nn.init.normal_(parameter, std=0.1)
    images = torch.randn(2, 3, *size)
    p = list(stock_fpn(pafpn, norm)(images).values())
    expected = reference_path(pafpn, p)
    expected.append(expected[-1][:, :, ::2, ::2])
    outputs = pafpn(images)
    assert list(outputs) == ["p2", "p3", "p4", "p5", "p6"]
    for output, reference in zip(outputs.values(), expected, strict=True):
        torch.testing.assert_close(output, reference)


def test_finest_level_is_passed_on() -> None:
    pafpn = build()
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(pafpn(images)["p2"], stock_fpn(pafpn, "")(images)["p2"])


def test_every_parameter_gets_a_gradient() -> None:
    pafpn = build("GN", "GN")
    sum(level.square().sum() for level in pafpn(torch.randn(1, 3, 64, 64)).values()).backward()
    without = [name for name, p in pafpn.named_parameters() if not p.grad.abs().sum() > 0]
    assert not without


def test_reports_its_shapes() -> None:
    pafpn = build()
    outputs = pafpn(torch.randn(1, 3, 64, 128))
    shapes = pafpn.output_shape()
    assert list(shapes) == list(outputs)
    for name, shape in shapes.items():
        size = (64 // shape.stride, 128 // shape.stride)
        assert outputs[name].shape == (1, shape.channels, *size)


@pytest.mark.parametrize("norm", ["naiveSyncBN", "SyncBN"])
def test_batch_norms_follow_the_batch(norm: str) -> None:
    pafpn = build(path_norm=norm).train()
    pafpn(torch.randn(2, 3, 64, 64))
    assert pafpn.path_output["p5"].norm.running_mean.abs().sum() > 0


def test_unknown_norm_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"MODEL\.PAFPN\.NORM is 'gn'.*'GN'.*'SyncBN'"):
        build(path_norm="gn")


def test_top_block_must_read_an_output() -> None:
    block = LastLevelMaxPool()
    block.in_feature = "res5"
    with pytest.raises(ValueError, match="res5"):
        PAFPN(AveragePyramid(), list(STRIDES), 32, top_block=block)


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_any_resnet(tiny_cfg: CfgNode, depth: int) -> None:
    tiny_cfg.MODEL.RESNETS.DEPTH = depth
    if depth >= 50:
        tiny_cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 256
    outputs = build_backbone(tiny_cfg)(torch.randn(1, 3, 64, 64))
    assert [tuple(level.shape[1:]) for level in outputs.values()] == [
        (32, 16, 16),
        (32, 8, 8),
        (32, 4, 4),
        (32, 2, 2),
        (32, 1, 1),
    ]


@pytest.mark.parametrize(
    ("backbone", "levels"),
    [
        ("build_resnet_pafpn_backbone", ["p3", "p4", "p5", "p6"]),
        ("build_retinanet_resnet_pafpn_backbone", ["p3", "p4", "p5", "p6", "p7"]),
    ],
)
def test_under_retinanet(tiny_cfg: CfgNode, backbone: str, levels: list[str]) -> None:
    tiny_cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    tiny_cfg.MODEL.BACKBONE.NAME = backbone
    tiny_cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    tiny_cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    tiny_cfg.MODEL.RETINANET.IN_FEATURES = levels
    tiny_cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16 * 2**i] for i in range(len(levels))]
    outputs = build_model(tiny_cfg).eval()([{"image": torch.zeros(3, 70, 101)}])
    assert outputs[0]["instances"].image_size == (70, 101)


def test_under_stock_roi_heads(tiny_cfg: CfgNode) -> None:
    tiny_cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    tiny_cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    tiny_cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    outputs = build_model(tiny_cfg).eval()([{"image": torch.zeros(3, 70, 101)}])
    assert outputs[0]["instances"].has("pred_masks")
