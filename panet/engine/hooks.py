"""Training hooks beside detectron2's."""

import sys
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from tqdm import tqdm

from panet.data.loader import derive_seed


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
        return {"seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seed = state["seed"]


class ProgressBar(HookBase):
    """A bar with the losses and the time left, for people who watch a terminal."""

    def __init__(self, period: int = 10) -> None:
        """
        Args:
            period: iterations between updates of the losses.
        """
        self.period = period

    def before_train(self) -> None:
        self.bar = tqdm(
            total=self.trainer.max_iter,
            initial=self.trainer.start_iter,
            desc="training",
            unit="iter",
            file=sys.stderr,
            dynamic_ncols=True,
        )

    def after_step(self) -> None:
        self.bar.update()
        if (self.trainer.iter + 1) % self.period == 0:
            histories = self.trainer.storage.histories()
            losses = {
                name.removeprefix("loss_"): f"{history.median(self.period):.3f}"
                for name, history in histories.items()
                if "loss" in name
            }
            self.bar.set_postfix(losses)

    def after_train(self) -> None:
        self.bar.close()
