"""Time the stages of a model."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from unittest import mock

import torch
from detectron2.modeling import GeneralizedRCNN
from torch import nn

from panet.modeling.pooler import PooledLevels


class StageClock:
    """Measures the seconds spent in each stage, excluding stages called from within it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._last = 0.0

    def now(self) -> float:
        """Wait for the device to finish its work and return the time."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _count_elapsed(self) -> None:
        now = self.now()
        if self._running:
            self.seconds[self._running[-1]] += now - self._last
        self._last = now

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time spent in a context, or in a decorated function, for a stage."""
        self._count_elapsed()
        self._running.append(name)
        try:
            yield
        finally:
            self._count_elapsed()
            self._running.pop()


@contextlib.contextmanager
def clocked(model: nn.Module, clock: StageClock | None) -> Iterator[None]:
    """Time the stages of a model with ``clock``, unless it is None; the remainder is "rest"."""
    if clock is None:
        yield
        return
    heads = model.roi_heads
    callables = [
        ("rest", model, "forward"),
        ("backbone", model.backbone.bottom_up, "forward"),
        ("pyramid", model.backbone, "forward"),
        ("rpn", model.proposal_generator, "forward"),
        ("pooling", heads.box_pooler, "forward"),
        ("pooling", heads.mask_pooler, "forward"),
        ("pooling", PooledLevels, "__getitem__"),
        ("box head", heads.box_head, "forward"),
        ("box head", heads.box_predictor, "forward"),
        ("box head", heads.box_predictor, "inference"),
        ("mask head", heads.mask_head, "forward"),
        ("paste", GeneralizedRCNN, "_postprocess"),
    ]
    with contextlib.ExitStack() as stack:
        for name, owner, attribute in callables:
            timed = clock.stage(name)(getattr(owner, attribute))
            stack.enter_context(mock.patch.object(owner, attribute, timed))
        yield
