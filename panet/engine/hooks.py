"""Training hooks in addition to detectron2's."""

import logging
import sys
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
    """A progress bar with the losses and the remaining time.

    While it is shown, detectron2 writes its metrics to the log file only.
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
    """A :class:`ProgressBar` for the main process at a terminal, else nothing."""
    return [ProgressBar()] if comm.is_main_process() and sys.stderr.isatty() else []


def _is_not_a_metric(record: logging.LogRecord) -> bool:
    return record.name != "detectron2.utils.events"
