"""Time all-level pooling against torchvision's RoIAlign called once per level."""

import statistics
from collections.abc import Callable

import torch
from boxes import IMAGE_SIZE, NUM_PROPOSALS, random_boxes
from detectron2.structures import Boxes
from stages import StageClock
from torch import Tensor
from torchvision.ops import roi_align

from panet.modeling import AllLevelPooler
from panet.modeling.pooler import FastAllLevelPooler

_STRIDES = (4, 8, 16, 32)
_CHANNELS, _BINS, _SAMPLES = 256, 7, 2


def pooling_speedup(device: torch.device, rounds: int) -> dict[str, float]:
    """Measure the speedup over torchvision, without and with the backward pass."""
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(NUM_PROPOSALS, generator).to(device)
    height, width = IMAGE_SIZE
    maps = [
        torch.randn(1, _CHANNELS, height // s, width // s, generator=generator).to(device)
        for s in _STRIDES
    ]
    scales = [1 / stride for stride in _STRIDES]
    pooler = FastAllLevelPooler.of(AllLevelPooler(_BINS, scales, _SAMPLES))

    def pool(x: list[Tensor]) -> list[Tensor]:
        return list(pooler(x, [Boxes(boxes)]))

    def pool_with_torchvision(x: list[Tensor]) -> list[Tensor]:
        return [
            roi_align(level, [boxes], _BINS, scale, _SAMPLES, aligned=True)
            for level, scale in zip(x, scales)
        ]

    channels_last = [level.to(memory_format=torch.channels_last) for level in maps]
    functions = {"panet": (pool, channels_last), "torchvision": (pool_with_torchvision, maps)}
    gradients = [torch.randn_like(level) for level in pool_with_torchvision(maps)]
    seconds: dict[str, list[float]] = {}
    for round_number in range(rounds + 1):
        for name, (function, x) in functions.items():
            memory_format = torch.channels_last if name == "panet" else torch.contiguous_format
            upstream = [g.to(memory_format=memory_format) for g in gradients]
            x = [level.detach().requires_grad_() for level in x]
            with torch.no_grad():
                forward = _seconds(device, function, x)
            both = _seconds(device, _forward_backward, function, x, upstream)
            if round_number > 0:  # round 0 is a warm-up
                seconds.setdefault(f"{name} forward", []).append(forward)
                seconds.setdefault(f"{name} forward_backward", []).append(both)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        task: medians[f"torchvision {task}"] / medians[f"panet {task}"]
        for task in ("forward", "forward_backward")
    }


def _forward_backward(
    function: Callable[[list[Tensor]], list[Tensor]], x: list[Tensor], gradients: list[Tensor]
) -> None:
    torch.autograd.grad(function(x), x, gradients)


def _seconds(device: torch.device, function: Callable[..., object], *args: object) -> float:
    clock = StageClock(device)
    start = clock.now()
    function(*args)
    return clock.now() - start
