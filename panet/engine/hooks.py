"""Training hooks beside detectron2's."""

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import nn
from tqdm import tqdm

from panet.data.loader import derive_seed

logger = logging.getLogger(__name__)


class SeedIteration(HookBase):
    """Makes the random numbers of an iteration a function of the seed and its number.

    A resumed run then samples the RoIs and anchors that an undisturbed one would have sampled.
    """

    def __init__(self, seed: int) -> None:
        """
        Args:
            seed: the run's seed, the same on all processes.
        """
        self.seed = seed

    def before_step(self) -> None:
        seed_all_rng(derive_seed(self.seed, comm.get_rank(), self.trainer.iter))

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, "processes": comm.get_world_size()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seed = state["seed"]
        before, now = state.get("processes"), comm.get_world_size()
        if before is not None and before != now and comm.is_main_process():
            logger.warning(
                "The run had %d process(es) and resumes with %d: batches, augmentations and "
                "sampled RoIs are not those of an uninterrupted run.",
                before,
                now,
            )


class EarlyLook(HookBase):
    """Shows once, early in a training, what the model has learned so far, and saves a checkpoint.

    What it shows is no part of the training: a run with it ends as one without it.
    """

    def __init__(self, seconds: float, show: Callable[[nn.Module, int], None]) -> None:
        """
        Args:
            seconds: of training until then; the iteration that goes on is finished.
            show: gets the model, in evaluation mode and without gradients, and the number of
                iterations that it was trained.
        """
        self.seconds = seconds
        self.show = show
        self.shown = False

    def before_train(self) -> None:
        self._start = time.perf_counter()

    def after_step(self) -> None:
        trainer = self.trainer
        is_due = time.perf_counter() - self._start >= self.seconds
        if self.shown or not is_due or not comm.is_main_process():
            return
        self.shown = True
        trainer.checkpointer.save(f"model_{trainer.iter:07d}", iteration=trainer.iter)
        trainer.model.eval()
        with torch.no_grad():
            self.show(trainer.model, trainer.iter + 1)
        trainer.model.train()

    def state_dict(self) -> dict[str, Any]:
        return {"shown": self.shown}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shown = state["shown"]


class ProgressBar(HookBase):
    """A bar with the losses and the time left, for people who watch.

    While it is shown, detectron2's lines with the same figures go to the log file only.
    """

    def __init__(self, period: int = 10) -> None:
        """
        Args:
            period: iterations between updates of the losses.
        """
        self.period = period

    def before_train(self) -> None:
        self._handlers = [
            handler
            for handler in logging.getLogger("detectron2").handlers
            if getattr(handler, "stream", None) in (sys.stdout, sys.stderr)
        ]
        for handler in self._handlers:
            handler.addFilter(_is_not_a_metric)
        self.bar = tqdm(
            total=self.trainer.max_iter,
            initial=self.trainer.start_iter,
            desc="training",
            unit="iter",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 15.0,
        )

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self.period == 0:
            losses = {
                name.removeprefix("loss_"): f"{history.median(self.period):.3f}"
                for name, history in self.trainer.storage.histories().items()
                if "loss" in name
            }
            self.bar.set_postfix(losses, refresh=False)
        self.bar.update()

    def after_train(self) -> None:
        self.bar.close()
        for handler in self._handlers:
            handler.removeFilter(_is_not_a_metric)


def progress_bars() -> list[HookBase]:
    """A :class:`ProgressBar` where people watch: in the main process, at a terminal."""
    return [ProgressBar()] if comm.is_main_process() and sys.stderr.isatty() else []


def _is_not_a_metric(record: logging.LogRecord) -> bool:
    return record.name != "detectron2.utils.events"
