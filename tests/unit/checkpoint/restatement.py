"""What the other systems compute, stated once more from their tensors alone."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

State = dict[str, Tensor]
BLOCKS = (3, 4, 6, 3)
WIDTHS = (64, 128, 256, 512)


class RandomState(dict[str, Tensor]):
    """Tensors of a network, filled so that activations stay in range."""

    def conv(self, name: str, out: int, *fan: int, bias: bool = False) -> None:
        self[f"{name}.weight"] = torch.randn(out, *fan) * (2 / torch.Size(fan).numel()) ** 0.5
        if bias:
            self[f"{name}.bias"] = torch.randn(out) * 0.1

    def affine(self, name: str, channels: int, scale: float = 1.0) -> None:
        self[f"{name}.weight"] = scale * (0.5 + 0.5 * torch.rand(channels))
        self[f"{name}.bias"] = torch.randn(channels) * 0.1

    def conv_gn(self, name: str, out: int, *fan: int, bias: bool = False) -> None:
        self.conv(f"{name}.0", out, *fan, bias=bias)
        self.affine(f"{name}.1", out)

    def batch_norm(self, name: str, channels: int, scale: float = 1.0) -> None:
        self.affine(name, channels, scale)
        self[f"{name}.running_mean"] = torch.randn(channels) * 0.1
        self[f"{name}.running_var"] = 0.5 + torch.rand(channels)
        self[f"{name}.num_batches_tracked"] = torch.tensor(7)


def blocks() -> Iterator[tuple[int, int, int, int]]:
    """Stage from 0, block, width and input channels of every bottleneck of a ResNet-50."""
    channels = 64
    for stage, (count, width) in enumerate(zip(BLOCKS, WIDTHS)):
        for block in range(count):
            yield stage, block, width, channels
            channels = 4 * width


# ---- The authors' release ----


def release_state(mask: bool, fully_connected: bool) -> State:
    state = RandomState()
    body = "Conv_Body.conv_body"
    state.conv(f"{body}.res1.conv1", 64, 3, 7, 7)
    state.affine(f"{body}.res1.bn1", 64)
    for stage, block, width, channels in blocks():
        name = f"{body}.res{stage + 2}.{block}"
        for conv, shape in enumerate(
            [(width, channels, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)], start=1
        ):
            state.conv(f"{name}.conv{conv}", *shape)
            state.affine(f"{name}.bn{conv}", shape[0], scale=0.3 if conv == 3 else 1.0)
        if block == 0:
            state.conv(f"{name}.downsample.0", 4 * width, channels, 1, 1)
            state.affine(f"{name}.downsample.1", 4 * width)
    state.conv_gn("Conv_Body.conv_top", 256, 2048, 1, 1)
    for i, channels in enumerate((1024, 512, 256)):
        state.conv_gn(f"Conv_Body.topdown_lateral_modules.{i}.conv_lateral", 256, channels, 1, 1)
        for path in ("conv1", "conv2"):
            state.conv_gn(f"Conv_Body.panet_buttomup_{path}_modules.{i}", 256, 256, 3, 3, bias=True)
    for i in range(4):
        state.conv_gn(f"Conv_Body.posthoc_modules.{i}", 256, 256, 3, 3)
    state.conv("RPN.FPN_RPN_conv", 256, 256, 3, 3, bias=True)
    state.conv("RPN.FPN_RPN_cls_score", 3, 256, 1, 1, bias=True)
    state.conv("RPN.FPN_RPN_bbox_pred", 12, 256, 1, 1, bias=True)
    for i in range(4):
        if fully_connected:
            state.conv_gn(f"Box_Head.fc1.{i}", 1024, 256 * 49, bias=True)
        else:
            state.conv_gn(f"Box_Head.conv1_head.{i}", 256, 256, 3, 3)
    if fully_connected:
        state.conv_gn("Box_Head.fc2", 1024, 1024, bias=True)
    else:
        for i in (0, 3, 6):
            state.conv(f"Box_Head.convs.{i}", 256, 256, 3, 3)
            state.affine(f"Box_Head.convs.{i + 1}", 256)
        state.conv("Box_Head.fc", 1024, 256 * 49, bias=True)
    state.conv("Box_Outs.cls_score", 81, 1024, bias=True)
    state.conv("Box_Outs.bbox_pred", 4 * 81, 1024, bias=True)
    if mask:
        for i in range(4):
            state.conv_gn(f"Mask_Head.mask_conv1.{i}", 256, 256, 3, 3)
        for i in (0, 3):
            state.conv(f"Mask_Head.conv_fcn.{i}", 256, 256, 3, 3)
            state.affine(f"Mask_Head.conv_fcn.{i + 1}", 256)
        state.conv_gn("Mask_Head.mask_conv4", 256, 256, 3, 3)
        state.conv_gn("Mask_Head.mask_conv4_fc", 256, 256, 3, 3)
        state.conv_gn("Mask_Head.mask_conv5_fc", 128, 256, 3, 3)
        state.conv("Mask_Head.mask_fc.0", 784, 128 * 196, bias=True)
        state.conv("Mask_Head.upconv", 256, 256, 2, 2)
        state["Mask_Head.upconv.bias"] = torch.randn(256) * 0.1
        state.conv("Mask_Outs.classify", 81, 256, 1, 1, bias=True)
    return dict(state)


def linear(x: Tensor, state: State, name: str) -> Tensor:
    return x.flatten(1) @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def conv(x: Tensor, state: State, name: str, stride: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, weight.shape[-1] // 2)


def group_norm(x: Tensor, state: State, name: str) -> Tensor:
    return F.group_norm(x, 32, state[f"{name}.weight"], state[f"{name}.bias"])


def conv_gn(x: Tensor, state: State, name: str, stride: int = 1) -> Tensor:
    return group_norm(conv(x, state, f"{name}.0", stride), state, f"{name}.1")


def release_levels(state: State, images: Tensor) -> list[Tensor]:
    """N2 to N5 and the stride-2 max-pool of N5."""

    def affine(x: Tensor, name: str) -> Tensor:
        weight, bias = (state[f"{body}.{name}.{p}"][:, None, None] for p in ("weight", "bias"))
        return x * weight + bias

    body = "Conv_Body.conv_body"
    x = affine(conv(images, state, f"{body}.res1.conv1", stride=2), "res1.bn1").relu()
    x = F.max_pool2d(x, 3, 2, 1)
    stages = []
    for stage, block, _, _ in blocks():
        name = f"res{stage + 2}.{block}"
        stride = 2 if block == 0 and stage > 0 else 1
        # The stride is that of the first 1x1 convolution.
        y = affine(conv(x, state, f"{body}.{name}.conv1", stride), f"{name}.bn1").relu()
        y = affine(conv(y, state, f"{body}.{name}.conv2"), f"{name}.bn2").relu()
        y = affine(conv(y, state, f"{body}.{name}.conv3"), f"{name}.bn3")
        if block == 0:
            downsample = conv(x, state, f"{body}.{name}.downsample.0", stride)
            x = affine(downsample, f"{name}.downsample.1")
        x = (x + y).relu()
        stages[stage:] = [x]
    inner = [conv_gn(stages[3], state, "Conv_Body.conv_top")]
    for i in range(3):  # from coarse to fine
        lateral = conv_gn(
            stages[2 - i], state, f"Conv_Body.topdown_lateral_modules.{i}.conv_lateral"
        )
        inner.append(lateral + inner[-1].repeat_interleave(2, 2).repeat_interleave(2, 3))
    p = [conv_gn(x, state, f"Conv_Body.posthoc_modules.{i}") for i, x in enumerate(inner)]
    n = [p[3]]
    for i in range(3):  # from fine to coarse
        down = conv_gn(n[-1], state, f"Conv_Body.panet_buttomup_conv1_modules.{i}", stride=2)
        n.append(
            conv_gn(
                down.relu() + p[2 - i], state, f"Conv_Body.panet_buttomup_conv2_modules.{i}"
            ).relu()
        )
    return [*n, n[-1][:, :, ::2, ::2]]


def pool_every_level(levels: list[Tensor], rois: Tensor, size: int) -> list[Tensor]:
    """Not aligned by half a pixel, two samples along each side of a bin, from fine to coarse."""
    return [
        roi_align(level, rois, size, 2.0 ** -(i + 2), 2, aligned=False)
        for i, level in enumerate(levels[:4])
    ]


def release_boxes(state: State, levels: list[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and deltas, the background first."""
    pooled = pool_every_level(levels, rois, 7)
    if "Box_Head.fc1.0.0.weight" in state:
        first = [
            group_norm(linear(x, state, f"Box_Head.fc1.{i}.0"), state, f"Box_Head.fc1.{i}.1")
            for i, x in enumerate(pooled)
        ]
        x = torch.stack(first).relu().amax(0)
        x = group_norm(linear(x, state, "Box_Head.fc2.0"), state, "Box_Head.fc2.1").relu()
    else:
        first = [conv_gn(x, state, f"Box_Head.conv1_head.{i}") for i, x in enumerate(pooled)]
        x = torch.stack(first).relu().amax(0)
        for i in (0, 3, 6):
            x = conv(x, state, f"Box_Head.convs.{i}")
            x = group_norm(x, state, f"Box_Head.convs.{i + 1}").relu()
        x = linear(x, state, "Box_Head.fc").relu()
    return linear(x, state, "Box_Outs.cls_score"), linear(x, state, "Box_Outs.bbox_pred")


def release_masks(state: State, levels: list[Tensor], rois: Tensor) -> Tensor:
    """Mask logits, (R, 81, 28, 28), the background first."""
    pooled = pool_every_level(levels, rois, 14)
    first = [conv_gn(x, state, f"Mask_Head.mask_conv1.{i}") for i, x in enumerate(pooled)]
    x = torch.stack(first).relu().amax(0)
    for i in (0, 3):
        x = conv(x, state, f"Mask_Head.conv_fcn.{i}")
        x = group_norm(x, state, f"Mask_Head.conv_fcn.{i + 1}").relu()
    up = F.conv_transpose2d(
        conv_gn(x, state, "Mask_Head.mask_conv4").relu(),
        state["Mask_Head.upconv.weight"],
        state["Mask_Head.upconv.bias"],
        stride=2,
    )
    logits = conv(up.relu(), state, "Mask_Outs.classify")
    branch = conv_gn(x, state, "Mask_Head.mask_conv4_fc").relu()
    branch = conv_gn(branch, state, "Mask_Head.mask_conv5_fc").relu()
    return logits + linear(branch, state, "Mask_Head.mask_fc.0").relu().view(-1, 1, 28, 28)


# ---- mmdetection ----


def mmdet_state() -> State:
    state = RandomState()
    state.conv("backbone.conv1", 64, 3, 7, 7)
    state.batch_norm("backbone.bn1", 64)
    for stage, block, width, channels in blocks():
        name = f"backbone.layer{stage + 1}.{block}"
        for conv, shape in enumerate(
            [(width, channels, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)], start=1
        ):
            state.conv(f"{name}.conv{conv}", *shape)
            state.batch_norm(f"{name}.bn{conv}", shape[0], scale=0.3 if conv == 3 else 1.0)
        if block == 0:
            state.conv(f"{name}.downsample.0", 4 * width, channels, 1, 1)
            state.batch_norm(f"{name}.downsample.1", 4 * width)
    for i, width in enumerate(WIDTHS):
        state.conv(f"neck.lateral_convs.{i}.conv", 256, 4 * width, 1, 1, bias=True)
        state.conv(f"neck.fpn_convs.{i}.conv", 256, 256, 3, 3, bias=True)
    for i in range(3):
        state.conv(f"neck.downsample_convs.{i}.conv", 256, 256, 3, 3, bias=True)
        state.conv(f"neck.pafpn_convs.{i}.conv", 256, 256, 3, 3, bias=True)
    state.conv("rpn_head.rpn_conv", 256, 256, 3, 3, bias=True)
    state.conv("rpn_head.rpn_cls", 3, 256, 1, 1, bias=True)
    state.conv("rpn_head.rpn_reg", 12, 256, 1, 1, bias=True)
    state.conv("roi_head.bbox_head.shared_fcs.0", 1024, 256 * 49, bias=True)
    state.conv("roi_head.bbox_head.shared_fcs.1", 1024, 1024, bias=True)
    state.conv("roi_head.bbox_head.fc_cls", 81, 1024, bias=True)
    state.conv("roi_head.bbox_head.fc_reg", 320, 1024, bias=True)
    for name in state:
        if name.startswith("neck."):
            state[name] *= 0.6  # without norms the levels would grow
    return dict(state)


def mmdet_levels(state: State, images: Tensor) -> list[Tensor]:
    def conv_bn(x: Tensor, conv_name: str, norm: str, stride: int = 1) -> Tensor:
        x = conv(x, state, conv_name, stride)
        statistics = (state[f"{norm}.{p}"] for p in ("running_mean", "running_var"))
        affine = (state[f"{norm}.{p}"] for p in ("weight", "bias"))
        return F.batch_norm(x, *statistics, *affine)

    x = conv_bn(images, "backbone.conv1", "backbone.bn1", stride=2).relu()
    x = F.max_pool2d(x, 3, 2, 1)
    stages = []
    for stage, block, _, _ in blocks():
        name = f"backbone.layer{stage + 1}.{block}"
        stride = 2 if block == 0 and stage > 0 else 1
        # The stride is that of the 3x3 convolution.
        y = conv_bn(x, f"{name}.conv1", f"{name}.bn1").relu()
        y = conv_bn(y, f"{name}.conv2", f"{name}.bn2", stride).relu()
        y = conv_bn(y, f"{name}.conv3", f"{name}.bn3")
        if block == 0:
            x = conv_bn(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
        x = (x + y).relu()
        stages[stage:] = [x]
    inner = [conv(x, state, f"neck.lateral_convs.{i}.conv") for i, x in enumerate(stages)]
    for i in (2, 1, 0):
        inner[i] = inner[i] + inner[i + 1].repeat_interleave(2, 2).repeat_interleave(2, 3)
    summed = [conv(x, state, f"neck.fpn_convs.{i}.conv") for i, x in enumerate(inner)]
    for i in range(3):
        down = conv(summed[i], state, f"neck.downsample_convs.{i}.conv", stride=2)
        summed[i + 1] = summed[i + 1] + down
    n = [conv(summed[i + 1], state, f"neck.pafpn_convs.{i}.conv") for i in range(3)]
    return [summed[0], *n, n[-1][:, :, ::2, ::2]]


def mmdet_boxes(state: State, levels: list[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
    """Scores, the background last, and deltas."""
    head = "roi_head.bbox_head"
    scores, deltas = [], []
    for roi in rois:
        size = ((roi[3] - roi[1]) * (roi[4] - roi[2])).sqrt()
        level = int(torch.log2(size / 56).floor().clamp(0, 3))
        x = roi_align(levels[level], roi[None], 7, 2.0 ** -(level + 2), 0, aligned=True)
        x = linear(x, state, f"{head}.shared_fcs.0").relu()
        x = linear(x, state, f"{head}.shared_fcs.1").relu()
        scores.append(linear(x, state, f"{head}.fc_cls"))
        deltas.append(linear(x, state, f"{head}.fc_reg"))
    return torch.cat(scores), torch.cat(deltas)
