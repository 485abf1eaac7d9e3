"""Deformable convolutions against a loop over samples, and against detectron2's names."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone, build_model, build_resnet_backbone
from detectron2.modeling.backbone import resnet as detectron2_resnet
from detectron2.modeling.backbone.resnet import BottleneckBlock, DeformBottleneckBlock, ResNet
from torch import Tensor, nn

from panet import optimize_for_inference
from panet.engine import PANetTrainer
from panet.modeling.backbones.deformable import DeformConv, build_resnet, make_deformable
from panet.modeling.cpu.layers import FrozenNormConv2d, fold_frozen_norms
from panet.utils.cpu import has_fast_bfloat16
from panet.utils.errors import UserError

IMAGES = ShapeSpec(channels=3)
SMALL = [
    *("MODEL.RESNETS.DEPTH", 50),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 8),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
    *("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True]),
]
VARIANTS = {
    "first version": [],
    "second version": ["MODEL.RESNETS.DEFORM_MODULATED", True],
    "stride in the 3x3": ["MODEL.RESNETS.STRIDE_IN_1X1", False],
    "two groups of offsets": [
        *("MODEL.RESNETS.DEFORM_NUM_GROUPS", 2),
        *("MODEL.RESNETS.DEFORM_MODULATED", True),
    ],
    "ResNeXt": [
        *("MODEL.RESNETS.NUM_GROUPS", 64),
        *("MODEL.RESNETS.WIDTH_PER_GROUP", 1),
        *("MODEL.RESNETS.DEFORM_NUM_GROUPS", 4),
    ],
    "dilated": ["MODEL.RESNETS.RES5_DILATION", 2],
    "frozen norms, frozen res3": [
        *("MODEL.RESNETS.NORM", "FrozenBN"),
        *("MODEL.BACKBONE.FREEZE_AT", 3),
    ],
}


def small(cfg: CfgNode, options: list[Any]) -> CfgNode:
    cfg.merge_from_list(SMALL)
    cfg.merge_from_list(options)
    return cfg


def deformable_blocks(model: nn.Module) -> list[DeformBottleneckBlock]:
    return [module for module in model.modules() if isinstance(module, DeformBottleneckBlock)]


def randomize_offsets(model: nn.Module) -> None:
    for block in deformable_blocks(model):
        nn.init.normal_(block.conv2_offset.weight, std=0.003)
        nn.init.normal_(block.conv2_offset.bias)


def sample(plane: Tensor, y: float, x: float) -> float:
    """Bilinear, of (H, W) with zeros around it."""
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                weight = (1 - abs(y - row)) * (1 - abs(x - column))
                total += weight * plane[row, column].item()
    return total


def loop_convolution(conv: DeformConv, x: Tensor, offset: Tensor, mask: Tensor | None) -> Tensor:
    """The definition for one image, (C, H, W); offsets in detectron2's order of channels."""
    output = torch.zeros(conv.out_channels, *offset.shape[1:], dtype=x.dtype)
    channels_per_group = conv.weight.shape[1]
    groups_of_offsets = len(offset) // 18
    for out_channel in range(conv.out_channels):
        group = out_channel // (conv.out_channels // conv.groups)
        for k_channel in range(channels_per_group):
            channel = group * channels_per_group + k_channel
            first = channel // (conv.in_channels // groups_of_offsets) * 9
            for position in range(9):
                row, column = divmod(position, 3)
                for i in range(output.shape[1]):
                    for j in range(output.shape[2]):
                        down, right = offset[2 * (first + position) :][:2, i, j].tolist()
                        y = i * conv.stride[0] + row * conv.dilation[0] - conv.padding[0] + down
                        z = j * conv.stride[1] + column * conv.dilation[1] - conv.padding[1] + right
                        value = conv.weight[out_channel, k_channel, row, column].item()
                        if mask is not None:
                            value *= mask[first + position, i, j].item()
                        output[out_channel, i, j] += value * sample(x[channel], y, z)
    return output


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize(
    ("groups", "groups_of_offsets", "stride", "dilation"),
    [(1, 1, 1, 1), (1, 2, 2, 1), (2, 1, 1, 2), (2, 4, 2, 2)],
)
def test_equals_a_loop_over_samples(
    modulated: bool, groups: int, groups_of_offsets: int, stride: int, dilation: int
) -> None:
    conv = DeformConv(
        4, 2, 3, stride=stride, padding=dilation, dilation=dilation, groups=groups, bias=False
    ).double()
    x = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    size = nn.functional.conv2d(x, conv.weight, None, stride, dilation, dilation, groups).shape[2:]
    offset = 2 * torch.randn(2, 18 * groups_of_offsets, *size, dtype=torch.float64)
    mask = torch.rand(2, 9 * groups_of_offsets, *size, dtype=torch.float64) if modulated else None
    with torch.no_grad():
        output = conv(x, offset, mask)
        for image in range(2):
            expected = loop_convolution(
                conv, x[image], offset[image], None if mask is None else mask[image]
            )
            torch.testing.assert_close(output[image], expected)


def test_norm_and_activation_come_after_it() -> None:
    norm = FrozenBatchNorm2d(4)
    nn.init.uniform_(norm.running_mean)
    plain = Conv2d(4, 4, 3, padding=1, bias=True, norm=norm, activation=nn.ReLU())
    conv = DeformConv(4, 4, 3, padding=1, bias=True, norm=norm, activation=nn.ReLU())
    conv.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, 8, 9)
    torch.testing.assert_close(conv(x, torch.zeros(2, 18, 8, 9)), plain(x))


def test_gradients_reach_offsets_masks_and_weights() -> None:
    conv = DeformConv(2, 2, 3, padding=1).double()
    x, offset, mask = (
        torch.rand(1, channels, 3, 4, dtype=torch.float64, requires_grad=True)
        for channels in (2, 18, 9)
    )

    def run(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(conv, {"weight": weight}, (x, offset, mask))

    assert torch.autograd.gradcheck(run, (x, offset, mask, conv.weight), fast_mode=True)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_untrained_offsets_leave_the_network_as_it_was(
    tiny_cfg: CfgNode, options: list[Any]
) -> None:
    cfg = small(tiny_cfg, options)
    resnet = build_resnet(cfg, IMAGES).eval()
    assert len(deformable_blocks(resnet)) == 4 + 6 + 3
    cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False] * 4
    plain = build_resnet_backbone(cfg, IMAGES).eval()
    shared = {k: v for k, v in resnet.state_dict().items() if "conv2_offset" not in k}
    plain.load_state_dict(shared)
    for block in deformable_blocks(resnet):
        if block.deform_modulated:
            block.conv2.weight.data *= 2  # masks start at the sigmoid of 0
    images = torch.rand(1, 3, 64, 64)
    expected = plain(images)
    for name, output in resnet(images).items():
        torch.testing.assert_close(output, expected[name], rtol=1e-4, atol=1e-4)


class CompiledConv(Conv2d):
    """Stands in for detectron2's classes, which cannot be built without its extension."""

    def __init__(self, *args: Any, deformable_groups: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@pytest.fixture
def _compiled_detectron2(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DeformConv", "ModulatedDeformConv"):
        monkeypatch.setattr(detectron2_resnet, name, CompiledConv)


@pytest.mark.usefixtures("_compiled_detectron2")
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_checkpoints_of_detectron2_load_completely(
    tiny_cfg: CfgNode, options: list[Any], tmp_path: Path
) -> None:
    cfg = small(tiny_cfg, options)
    stock, ours = build_resnet_backbone(cfg, IMAGES), build_resnet(cfg, IMAGES)
    state = stock.state_dict()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in state.items()
    }
    for value in state.values():
        value.copy_(torch.rand(value.shape))
    torch.save({"model": state}, tmp_path / "stock.pth")
    DetectionCheckpointer(ours).load(str(tmp_path / "stock.pth"))
    assert all(torch.equal(value, state[name]) for name, value in ours.state_dict().items())


@pytest.mark.usefixtures("_compiled_detectron2")
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_frozen_stages_are_those_of_detectron2(tiny_cfg: CfgNode, options: list[Any]) -> None:
    cfg = small(tiny_cfg, options)
    stock, ours = build_resnet_backbone(cfg, IMAGES), build_resnet(cfg, IMAGES)
    trained, expected = (
        {name for name, parameter in net.named_parameters() if parameter.requires_grad}
        for net in (ours, stock)
    )
    assert trained == expected
    for name, module in stock.named_modules():
        if not isinstance(module, CompiledConv):
            assert isinstance(ours.get_submodule(name), type(module)), name


def test_frozen_norms_of_the_other_convolutions_are_folded() -> None:
    block = BottleneckBlock(8, 8, bottleneck_channels=4, norm="FrozenBN")
    resnet = make_deformable(one_stage(block), ["res2"])
    (block,) = resnet.res2
    nn.init.uniform_(block.conv2.norm.running_var, 0.5, 2.0)
    randomize_offsets(resnet)
    x = torch.randn(1, 8, 6, 6)
    expected = block(x)
    fold_frozen_norms(resnet)
    assert [type(c) for c in (block.conv1, block.conv2)] == [FrozenNormConv2d, DeformConv]
    torch.testing.assert_close(block(x), expected)


def one_stage(*blocks: nn.Module) -> ResNet:
    stem = nn.Identity()
    stem.stride, stem.out_channels = 1, 8
    return ResNet(stem, [list(blocks)], out_features=["res2"])


def test_channels_last_and_contiguous_maps_give_the_same(tiny_cfg: CfgNode) -> None:
    resnet = build_resnet(small(tiny_cfg, VARIANTS["second version"]), IMAGES).eval()
    randomize_offsets(resnet)
    images = torch.rand(1, 3, 64, 64)
    expected = resnet(images)["res5"]
    resnet.to(memory_format=torch.channels_last)
    output = resnet(images.contiguous(memory_format=torch.channels_last))["res5"]
    assert_close_on_average(output, expected, 1e-4)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_rounds_what_goes_in_and_out_only(autocast: bool) -> None:
    conv = DeformConv(8, 8, 3, padding=1)
    x, offset, mask = torch.randn(1, 8, 9, 9), 3 * torch.randn(1, 18, 9, 9), torch.rand(1, 9, 9, 9)
    rounded = [tensor.bfloat16() for tensor in (x, offset, mask)]
    expected = conv(*(tensor.float() for tensor in rounded))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = conv(*rounded)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, expected.bfloat16())


@pytest.mark.parametrize("version", ["first version", "second version"])
@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_optimized_for_inference(tiny_cfg: CfgNode, version: str, norm: str) -> None:
    cfg = small(tiny_cfg, [*VARIANTS[version], "MODEL.RESNETS.NORM", norm])
    model = build_model(cfg).eval()
    randomize_offsets(model)
    for block in deformable_blocks(model):
        nn.init.uniform_(block.conv2.norm.running_var, 0.5, 2.0)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.backbone(images)["p3"]
        optimized = optimize_for_inference(model).backbone
        assert optimized.bottom_up.res3[0].conv2.norm is None
        assert_close_on_average(optimized(images)["p3"], expected, 1e-4)
        rounded = optimize_for_inference(model, torch.bfloat16).backbone(images)["p3"]
    assert rounded.dtype == (torch.bfloat16 if has_fast_bfloat16() else torch.float32)
    assert_close_on_average(rounded, expected, 0.05)


def assert_close_on_average(output: Tensor, expected: Tensor, tolerance: float) -> None:
    assert (output - expected).abs().mean() < tolerance * expected.abs().mean()


def test_trains_in_bfloat16(tiny_cfg: CfgNode) -> None:
    cfg = small(tiny_cfg, VARIANTS["second version"])
    cfg.DATASETS.TEST = ()
    cfg.SOLVER.AMP.ENABLED = True
    cfg.SOLVER.AMP.DTYPE = "bfloat16"
    cfg.SOLVER.MAX_ITER = 1
    trainer = PANetTrainer(cfg)
    trainer.train()
    blocks = deformable_blocks(trainer.model)
    assert len(blocks) == 4 + 6 + 3
    assert all(block.conv2_offset.weight.any() for block in blocks)
    assert all(p.isfinite().all() for p in trainer.model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64],
            "DEFORM_ON_PER_STAGE is True for res3.*DEPTH to 50",
        ),
        (["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [True, True]], "one value for each of res2"),
        (["MODEL.RESNETS.DEFORM_NUM_GROUPS", 3], "DEFORM_NUM_GROUPS is 3; it must divide the 16"),
    ],
)
def test_keys_that_do_not_fit_are_refused(
    tiny_cfg: CfgNode, options: list[Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone(small(tiny_cfg, options))


def test_only_stages_that_are_built_are_made_deformable(tiny_cfg: CfgNode) -> None:
    cfg = small(tiny_cfg, ["MODEL.RESNETS.OUT_FEATURES", ["res2", "res3"]])
    assert len(deformable_blocks(build_resnet(cfg, IMAGES))) == 4
