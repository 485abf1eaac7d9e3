"""Where the time of a model goes."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from detectron2.modeling import GeneralizedRCNN
from torch import nn

from panet.modeling.pooler import PooledLevels


class StageClock:
    """Seconds spent in each stage of a model, not counting the stages called from within it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._last = 0.0

    def now(self) -> float:
        """The time at which the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _book(self) -> None:
        now = self.now()
        if self._running:
            self.seconds[self._running[-1]] += now - self._last
        self._last = now

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what runs within it for this stage."""
        self._book()
        self._running.append(name)
        try:
            yield
        finally:
            self._book()
            self._running.pop()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its calls counted for a stage."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return function(*args, **kwargs)

        return call


@contextlib.contextmanager
def clocked(model: nn.Module, clock: StageClock | None) -> Iterator[None]:
    """Have ``clock``, if any, run along with the model's stages; what is left is called "rest"."""
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
            timed = clock.timed(name, getattr(owner, attribute))
            stack.enter_context(mock.patch.object(owner, attribute, timed))
        yield
