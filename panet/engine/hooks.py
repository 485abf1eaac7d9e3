"""Training hooks in addition to detectron2's."""

import logging
import sys
import time
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from tqdm import tqdm

from panet.data.loader import derive_seed

logger = logging.getLogger(__name__)


class SeedIteration(HookBase):
    """Seeds every iteration from the run's seed and the iteration's number.

    A resumed run thus samples the same RoIs and anchors as an uninterrupted one.
    """

    def __init__(self, seed: int) -> None:
        """
        Args:
            seed: of the run, the same in all processes.
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


class ProgressBar(HookBase):
    """Shows progress on standard error: a bar at a terminal, else a line every half minute.

    Both have the total loss, the last mask or box AP and the remaining time. While it is shown,
    detectron2 writes its metrics to the log file only.
    """

    def __init__(self, period: int = 10, seconds: float = 30.0) -> None:
        """
        Args:
            period: iterations that the loss is a median of.
            seconds: between lines, if standard error is not a terminal.
        """
        self.period = period
        self.seconds = seconds

    def before_train(self) -> None:
        self._handlers = [
            handler
            for handler in logging.getLogger("detectron2").handlers
            if getattr(handler, "stream", None) in (sys.stdout, sys.stderr)
        ]
        for handler in self._handlers:
            handler.addFilter(_is_not_a_metric)
        self._start = time.monotonic()
        self._next_line = 0.0
        self.bar = tqdm(
            total=self.trainer.max_iter,
            initial=self.trainer.start_iter,
            desc="training",
            dynamic_ncols=True,
            mininterval=0.5,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} "
            "[{elapsed}<{remaining}{postfix}]",
            disable=not sys.stderr.isatty(),
        )

    def after_step(self) -> None:
        iteration = self.trainer.iter + 1
        now = time.monotonic()
        if not self.bar.disable:
            if iteration % self.period == 0:
                self.bar.set_postfix(self._figures(), refresh=False)
            self.bar.update()
        elif now >= self._next_line or iteration == self.trainer.max_iter:
            self._next_line = now + self.seconds
            done = iteration - self.trainer.start_iter
            left = (now - self._start) / done * (self.trainer.max_iter - iteration)
            parts = [f"training   {iteration:,}/{self.trainer.max_iter:,}"]
            parts += [f"{name} {value}" for name, value in self._figures().items()]
            if done > 1:  # the first iteration takes longer than others
                parts.append(f"{tqdm.format_interval(left)} left")
            print(", ".join(parts), file=sys.stderr, flush=True)

    def _figures(self) -> dict[str, str]:
        storage = self.trainer.storage
        latest = storage.latest()
        figures = {"loss": f"{storage.history('total_loss').median(self.period):.2f}"}
        for task in ("segm/AP", "bbox/AP"):
            for name, (value, _) in latest.items():
                if f"/{name}".endswith(f"/{task}"):  # after the dataset, if there are several
                    return {**figures, "AP": f"{value:.1f}"}
        return figures

    def after_train(self) -> None:
        self.bar.close()
        for handler in self._handlers:
            handler.removeFilter(_is_not_a_metric)


def progress_bars() -> list[HookBase]:
    """A :class:`ProgressBar` for the main process at a terminal, else nothing."""
    return [ProgressBar()] if comm.is_main_process() and sys.stderr.isatty() else []


def _is_not_a_metric(record: logging.LogRecord) -> bool:
    return record.name != "detectron2.utils.events"
