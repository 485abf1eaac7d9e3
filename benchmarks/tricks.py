"""Times what makes the network fast on a CPU, each against the plain way.

The shapes are those of an 800 x 1088 image with 1,000 proposals at inference, and of two such
images in training. A trick that is not for this CPU is timed all the same, and marked as not used,
if it can run there.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from boxes import IMAGE_SIZE, NUM_DETECTIONS, NUM_PROPOSALS
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling.backbone.resnet import BottleneckBlock
from measure import machine, reexecute
from pooling import pooling_speedup
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight
from tqdm import tqdm

from panet.modeling import mask_head
from panet.modeling.cpu import weight_gradient, winograd
from panet.modeling.cpu.fused import fuse_residual_blocks
from panet.modeling.cpu.group_norm import ContiguousGroupNorm, MatrixGroupNorm
from panet.modeling.cpu.layers import fold_frozen_norms
from panet.modeling.cpu.linear import linear
from panet.utils.cpu import has_avx2_only, has_avx512, has_fast_bfloat16

CHANNELS = 256
HEIGHT, WIDTH = (side // 4 for side in IMAGE_SIZE)
CPU = torch.device("cpu")
Work = Callable[[], object]


@dataclass(frozen=True)
class Trick:
    """A faster way and the plain one.

    Attributes:
        name: as in the report.
        set_up: builds what runs the faster way, and what runs the plain one.
        is_used: whether the project takes the faster way on this CPU.
        trains: whether gradients are computed too.
    """

    name: str
    set_up: Callable[[], tuple[Work, Work]]
    is_used: bool = True
    trains: bool = False


def _map(*shape: int, dtype: torch.dtype = torch.float32, grad: bool = False) -> Tensor:
    x = torch.randn(shape).to(dtype)
    return x.contiguous(memory_format=torch.channels_last).requires_grad_(grad)


def _channels_last() -> tuple[Work, Work]:
    conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
    fast = copy.deepcopy(conv).to(memory_format=torch.channels_last)
    last = _map(1, CHANNELS, HEIGHT, WIDTH)
    plain = last.contiguous()
    return lambda: F.relu_(fast(last)), lambda: F.relu_(conv(plain))


def _linear(by_convolution: bool) -> tuple[Work, Work]:
    """The first fc layer of the 2fc head, forward and backward."""
    inputs, outputs = CHANNELS * 7 * 7, 1024
    x = torch.randn(NUM_PROPOSALS, inputs, requires_grad=True)
    weight = torch.randn(outputs, inputs, requires_grad=True)
    bias = torch.randn(outputs, requires_grad=True)
    upstream = torch.randn(NUM_PROPOSALS, outputs)

    def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        maps, kernels = (t.view(-1, 7, 7, CHANNELS).permute(0, 3, 1, 2) for t in (x, weight))
        return F.conv2d(maps, kernels, bias).flatten(1)

    def run(function: Callable[..., Tensor]) -> object:
        return torch.autograd.grad(function(x, weight, bias), (x, weight, bias), upstream)

    plain = convolve if by_convolution else F.linear
    return lambda: run(linear), lambda: run(plain)


def _weight_gradient(method: str, stride: int, dtype: torch.dtype) -> tuple[Work, Work]:
    x = _map(2, CHANNELS, HEIGHT, WIDTH, dtype=dtype)
    weight = _map(CHANNELS, CHANNELS, 3, 3, dtype=dtype)
    gradient = _map(2, CHANNELS, HEIGHT // stride, WIDTH // stride, dtype=dtype)
    compute = getattr(weight_gradient, method)
    strides, padding = (stride, stride), (1, 1)
    return (
        lambda: compute(x, weight, gradient, strides, padding),
        lambda: conv2d_weight(x, weight.shape, gradient, strides, padding),
    )


def _winograd(*shape: int) -> tuple[Work, Work]:
    x, weight = _map(*shape), _map(CHANNELS, CHANNELS, 3, 3)
    return lambda: winograd.convolve(x, weight), lambda: F.conv2d(x, weight, padding=1)


def _residual_block(dtype: torch.dtype) -> tuple[Work, Work]:
    block = BottleneckBlock(CHANNELS, CHANNELS, bottleneck_channels=64, norm="")
    stage = nn.Sequential(block, copy.deepcopy(block)).to(dtype)
    stage.requires_grad_(False).to(memory_format=torch.channels_last)
    fused = copy.deepcopy(stage)
    fuse_residual_blocks(fused)
    x = _map(1, CHANNELS, HEIGHT, WIDTH, dtype=dtype)
    return lambda: fused(x), lambda: stage(x)


def _folded_norms() -> tuple[Work, Work]:
    """A residual block in training."""
    plain = BottleneckBlock(512, 512, bottleneck_channels=128, norm="FrozenBN")
    plain.to(memory_format=torch.channels_last)
    folded = copy.deepcopy(plain)
    fold_frozen_norms(folded)
    x = _map(2, 512, HEIGHT // 2, WIDTH // 2, grad=True)
    upstream = torch.randn_like(x)

    def run(block: nn.Module) -> object:
        return torch.autograd.grad(block(x), [x, *block.parameters()], upstream)

    return lambda: run(folded), lambda: run(plain)


def _rois_at_a_time() -> tuple[Work, Work]:
    """A convolution with group norm of the heavier head, at inference."""
    conv = Conv2d(CHANNELS, CHANNELS, 3, padding=1, norm=get_norm("GN", CHANNELS))
    conv.to(memory_format=torch.channels_last)
    x = _map(NUM_PROPOSALS, CHANNELS, 7, 7)
    return lambda: torch.cat([conv(part) for part in x.split(256)]), lambda: conv(x)


def _masks_of_one_class(rois_at_a_time: int) -> tuple[Work, Work]:
    """Deconvolution and last layer of the mask head, against those of all classes."""
    classes = 80
    head = mask_head.PANetMaskHead(
        ShapeSpec(channels=CHANNELS, height=14, width=14),
        num_classes=classes,
        conv_dims=[CHANNELS] * 5,
    ).to(memory_format=torch.channels_last)
    x = _map(NUM_DETECTIONS, CHANNELS, 14, 14)
    chosen = torch.arange(NUM_DETECTIONS) % classes
    head.rois_at_a_time = rois_at_a_time
    return lambda: head._predict(x, chosen), lambda: head._predict(x, None)


def _group_norm(kind: type[nn.GroupNorm], images: int, size: int, grad: bool) -> tuple[Work, Work]:
    dtype = torch.bfloat16
    plain, fast = (k(32, CHANNELS).to(dtype) for k in (nn.GroupNorm, kind))
    x = _map(images, CHANNELS, size, size, dtype=dtype, grad=grad)
    upstream = torch.randn_like(x)

    def run(norm: nn.Module) -> object:
        if not grad:
            return norm(x)
        return torch.autograd.grad(norm(x), [x, *norm.parameters()], upstream)

    return lambda: run(fast), lambda: run(plain)


def tricks() -> list[Trick]:
    """All of them that can run here."""
    single, half = torch.float32, torch.bfloat16
    found = [
        Trick("channels-last map, 3x3 convolution", _channels_last),
        Trick(
            "first fc layer by oneDNN, against MKL",
            lambda: _linear(by_convolution=False),
            trains=True,
        ),
        Trick("the same, against a convolution", lambda: _linear(True), trains=True),
        Trick(
            "weight gradient by strips, stride 1",
            lambda: _weight_gradient("_by_strips", 1, single),
            has_avx512(),
        ),
        Trick(
            "weight gradient by strips, stride 2",
            lambda: _weight_gradient("_by_strips", 2, single),
            has_avx512(),
        ),
        Trick(
            "weight gradient by products, stride 1",
            lambda: _weight_gradient("_by_products", 1, single),
            has_avx2_only(),
        ),
        Trick(
            "weight gradient by products, stride 2",
            lambda: _weight_gradient("_by_products", 2, single),
            has_avx2_only(),
        ),
        Trick(
            "Winograd on the finest level",
            lambda: _winograd(1, CHANNELS, HEIGHT, WIDTH),
            has_avx2_only(),
        ),
        Trick(
            "Winograd on 1,000 RoIs, 7x7",
            lambda: _winograd(NUM_PROPOSALS, CHANNELS, 7, 7),
            has_avx2_only(),
        ),
        Trick(
            "Winograd on 100 RoIs, 14x14",
            lambda: _winograd(NUM_DETECTIONS, CHANNELS, 14, 14),
            has_avx2_only(),
        ),
        Trick("residual blocks fused", lambda: _residual_block(single)),
        Trick("frozen norms folded in training", _folded_norms, trains=True),
        Trick("box head, 256 RoIs at a time", _rois_at_a_time),
        Trick("masks of one class, 16 RoIs at a time", lambda: _masks_of_one_class(16)),
        Trick("masks of one class, all RoIs at once", lambda: _masks_of_one_class(1000), False),
    ]
    if has_fast_bfloat16():
        found += [
            Trick(
                "weight gradient by strips, stride 1, bf16",
                lambda: _weight_gradient("_by_strips", 1, half),
            ),
            Trick("residual blocks fused, bf16", lambda: _residual_block(half)),
            Trick(
                "group norm as products, bf16", lambda: _group_norm(MatrixGroupNorm, 1000, 7, False)
            ),
            Trick(
                "group norm on contiguous maps in training, bf16",
                lambda: _group_norm(ContiguousGroupNorm, 256, 14, True),
                trains=True,
            ),
        ]
    return found


def milliseconds(trick: Trick, rounds: int) -> tuple[float, float]:
    """Medians of the faster and the plain way, which alternate after a round that warms up."""
    works = trick.set_up()
    times: tuple[list[float], list[float]] = ([], [])
    with torch.set_grad_enabled(trick.trains):
        for round_number in range(rounds + 1):
            for work, found in zip(works, times):
                start = time.perf_counter()
                work()
                if round_number > 0:
                    found.append(1000 * (time.perf_counter() - start))
    fast, plain = map(statistics.median, times)
    return fast, plain


def main() -> None:
    """Time them all and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="after a round that warms up")
    parser.add_argument("--isa", choices=("avx2",), help="imitate a CPU that has nothing newer")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    reexecute(args.isa)
    rows = []
    for trick in tqdm(tricks(), "tricks"):
        fast, plain = milliseconds(trick, args.rounds)
        rows.append([trick.name, plain, fast, plain / fast, "yes" if trick.is_used else "no"])
    speedup = pooling_speedup(CPU, args.rounds)
    rows.append(["pooling as a gather", None, None, speedup["forward"], "yes"])
    rows.append(["the same with its gradient", None, None, speedup["forward_backward"], "yes"])
    headers = ["", "plain ms", "ms", "times as fast", "used here"]
    print(f"{machine(CPU)}, torch {torch.__version__}, medians of {args.rounds} rounds\n")
    print(tabulate(rows, headers=headers, floatfmt=("", ".1f", ".1f", ".2f")))
    if args.json:
        args.json.write_text(json.dumps([dict(zip(headers, row)) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
