"""Time the optimizations of the network on a CPU, each against the usual implementation.

The shapes are those of one image of 800 x 1088 pixels with 1,000 proposals in inference, and of two
such images in training. Optimizations that panet does not use on this CPU are also timed if they
can run on it, and marked as not used.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from boxes import IMAGE_SIZE, NUM_DETECTIONS, NUM_PROPOSALS
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling.backbone.resnet import BottleneckBlock
from measure import add_common_arguments, machine, reexecute
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
    """An optimization and the usual implementation.

    Attributes:
        name: name in the report.
        set_up: returns a function that runs the optimization and one that runs the usual
            implementation.
        is_used: whether panet uses the optimization on this CPU.
        trains: whether gradients are computed.
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
    """Set up forward and backward pass of the first fc layer of the 2fc head."""
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
    """Set up a residual block in training."""
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
    """Set up a convolution with group norm of the heavier head, in inference."""
    conv = Conv2d(CHANNELS, CHANNELS, 3, padding=1, norm=get_norm("GN", CHANNELS))
    conv.to(memory_format=torch.channels_last)
    x = _map(NUM_PROPOSALS, CHANNELS, 7, 7)
    return lambda: torch.cat([conv(part) for part in x.split(256)]), lambda: conv(x)


def _masks_of_one_class(rois_at_a_time: int) -> tuple[Work, Work]:
    """Set up deconvolution and last layer of the mask head, for one class or all classes."""
    classes = 80
    head = mask_head.PANetMaskHead(
        ShapeSpec(channels=CHANNELS, height=14, width=14),
        num_classes=classes,
        conv_dims=[CHANNELS] * 5,
    ).to(memory_format=torch.channels_last)
    x = _map(NUM_DETECTIONS, CHANNELS, 14, 14)
    predicted = torch.arange(NUM_DETECTIONS) % classes
    head.rois_at_a_time = rois_at_a_time
    return lambda: head._predict(x, predicted), lambda: head._predict(x, None)


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
    """Return the optimizations that can run on this CPU."""
    single, half = torch.float32, torch.bfloat16
    avx512, avx2 = has_avx512(), has_avx2_only()
    finest = (1, CHANNELS, HEIGHT, WIDTH)
    box_rois, mask_rois = (NUM_PROPOSALS, CHANNELS, 7, 7), (NUM_DETECTIONS, CHANNELS, 14, 14)
    found = [
        Trick("channels-last map, 3x3 convolution", _channels_last),
        Trick("first fc layer by oneDNN, against MKL", partial(_linear, False), trains=True),
        Trick("the same, against a convolution", partial(_linear, True), trains=True),
        *(
            Trick(
                f"weight gradient by {method}, stride {stride}",
                partial(_weight_gradient, f"_by_{method}", stride, single),
                is_used,
            )
            for method, is_used in (("strips", avx512), ("products", avx2))
            for stride in (1, 2)
        ),
        Trick("Winograd on the finest level", partial(_winograd, *finest), avx2),
        Trick("Winograd on 1,000 RoIs, 7x7", partial(_winograd, *box_rois), avx2),
        Trick("Winograd on 100 RoIs, 14x14", partial(_winograd, *mask_rois), avx2),
        Trick("residual blocks fused", partial(_residual_block, single)),
        Trick("frozen norms folded in training", _folded_norms, trains=True),
        Trick("box head, 256 RoIs at a time", _rois_at_a_time),
        Trick("masks of one class, 16 RoIs at a time", partial(_masks_of_one_class, 16)),
        Trick("masks of one class, all RoIs at once", partial(_masks_of_one_class, 1000), False),
    ]
    if has_fast_bfloat16():
        strips = partial(_weight_gradient, "_by_strips", 1, half)
        products = partial(_group_norm, MatrixGroupNorm, 1000, 7, False)
        contiguous = partial(_group_norm, ContiguousGroupNorm, 256, 14, True)
        found += [
            Trick("weight gradient by strips, stride 1, bf16", strips),
            Trick("residual blocks fused, bf16", partial(_residual_block, half)),
            Trick("group norm as products, bf16", products),
            Trick("group norm on contiguous maps in training, bf16", contiguous, trains=True),
        ]
    return found


def milliseconds(trick: Trick, rounds: int) -> tuple[float, float]:
    """Time optimization and usual implementation alternately, after a warm-up; return medians."""
    functions = trick.set_up()
    times: tuple[list[float], list[float]] = ([], [])
    with torch.set_grad_enabled(trick.trains):
        for round_number in range(rounds + 1):
            for function, measured in zip(functions, times):
                start = time.perf_counter()
                function()
                if round_number > 0:
                    measured.append(1000 * (time.perf_counter() - start))
    fast, usual = map(statistics.median, times)
    return fast, usual


def main() -> None:
    """Time all optimizations and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_arguments(parser)
    args = parser.parse_args()
    reexecute(args.isa)
    rows = []
    for trick in tqdm(tricks(), "optimizations"):
        fast, usual = milliseconds(trick, args.rounds)
        rows.append([trick.name, usual, fast, usual / fast, "yes" if trick.is_used else "no"])
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
