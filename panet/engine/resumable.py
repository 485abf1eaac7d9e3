"""What trainings from YAML and from Python configurations have in common."""

import logging
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
)
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from panet.checkpoint import PANetCheckpointer
from panet.data.loader import TrainBatchSampler
from panet.utils.choices import check_choice
from panet.utils.device import usable_precision
from panet.utils.errors import UserError

from .amp import BFloat16Trainer
from .hooks import SeedIteration
from .interruption import StopOnSignal
from .non_finite import NonFiniteLosses

logger = logging.getLogger(__name__)


class RunSettings(NamedTuple):
    """What every run reads of its configuration, whichever kind that is.

    Attributes:
        output_dir: folder of the run.
        device: of the model, e.g. "cuda".
        weights: the checkpoint to start from; "" for random weights.
        seed: negative for a random one.
        max_iter: iterations in all.
        amp_enabled: whether to train in mixed precision.
        amp_dtype: in which, "float16" or "bfloat16".
        ddp: options of ``create_ddp_model``.
    """

    output_dir: str
    device: str
    weights: str
    seed: int
    max_iter: int
    amp_enabled: bool
    amp_dtype: str
    ddp: dict[str, Any]


class ResumableTrainer(DefaultTrainer, ABC):
    """detectron2's ``DefaultTrainer`` with what it lacks, for any kind of configuration.

    - It runs on the CPU, in one process or several (gloo), and in bfloat16.
    - A resumed run reads the data and draws the random numbers of an undisturbed one.
    - Signals, losses that are not finite and dying workers leave a run that can be resumed.

    Subclasses say what a configuration means: by the class methods of ``DefaultTrainer`` that
    build things from it, and by those that are abstract here.

    Attributes:
        amp_dtype_key, learning_rate_key, num_workers_key: keys of the configuration, for messages.
    """

    amp_dtype_key: ClassVar[str]
    learning_rate_key: ClassVar[str]
    num_workers_key: ClassVar[str]

    def __init__(self, cfg: Any) -> None:
        """
        Args:
            cfg: a configuration of the kind that the class takes.
        """
        # DefaultTrainer's own would wrap the model for CUDA, and would read the dataset before
        # it is known from which iteration on it is needed.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        self.cfg = cfg
        settings = self.settings
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        device = next(model.parameters()).device
        # device_ids are those of GPUs; None for a model on the CPU.
        device_ids = {"device_ids": None} if device.type == "cpu" else {}
        model = create_ddp_model(model, **settings.ddp, **device_ids)
        self._trainer = self._choose_step_runner(device)(model, None, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = self.build_checkpointer(cfg, model, trainer=weakref.proxy(self))
        self.max_iter = settings.max_iter
        seed = settings.seed if settings.seed >= 0 else comm.shared_random_seed()
        self._seed_iteration = SeedIteration(seed)
        self.register_hooks([self._seed_iteration, *self.build_hooks(), StopOnSignal()])
        self._non_finite = NonFiniteLosses(model, Path(settings.output_dir))

    @property
    def settings(self) -> RunSettings:
        """What the run's configuration says of it now."""
        return self.read_settings(self.cfg)

    @classmethod
    @abstractmethod
    def read_settings(cls, cfg: Any) -> RunSettings:
        """What ``cfg`` says of the run as a whole."""

    @classmethod
    @abstractmethod
    def check_data(cls, cfg: Any, splits: Sequence[str] = ("TRAIN", "TEST")) -> None:
        """Check that the data of ``cfg`` is there and fits the model.

        Raises:
            UserError: if it is not so.
        """

    @classmethod
    @abstractmethod
    def build_checkpointer(
        cls, cfg: Any, model: nn.Module, **checkpointables: Any
    ) -> PANetCheckpointer:
        """The checkpointer of the run's folder, for ``model`` and what else to save."""

    @classmethod
    @abstractmethod
    def with_seed(cls, cfg: Any, seed: int) -> Any:
        """A copy of ``cfg`` with this seed."""

    @classmethod
    @abstractmethod
    def save_config(cls, cfg: Any, file: Path) -> None:
        """Write ``cfg`` to a YAML file."""

    @classmethod
    def evaluate(cls, cfg: Any, resume: bool = False) -> dict[str, Any]:
        """Build the model, load its weights, and test it.

        Args:
            cfg: a configuration of the kind that the class takes.
            resume: whether to test the last checkpoint of the run, if there is one, instead of the
                weights that ``cfg`` names.

        Returns:
            The metrics, on the main process.
        """
        model = cls.build_model(cfg)
        weights = cls.read_settings(cfg).weights
        cls.build_checkpointer(cfg, model).resume_or_load(weights, resume=resume)
        return cls.test(cfg, model)

    def resume_or_load(self, resume: bool = True) -> None:
        """See ``DefaultTrainer``.

        Raises:
            UserError: if no checkpoint of the run, or not the one to start from, can be loaded.
        """
        self.checkpointer.resume_or_load(self.settings.weights, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            # The checkpoint stores the iteration that had just finished.
            self.start_iter = self.iter + 1

    def train(self) -> Any:
        """Train from ``start_iter`` to ``max_iter``.

        Returns:
            The metrics of the last evaluation, on the main process.

        Raises:
            UserError: if the data or the run's folder fail, or the loss is infinite or NaN.
            KeyboardInterrupt, SystemExit: after SIGINT and SIGTERM, once a checkpoint is saved.
        """
        self._save_config()
        self._trainer.reset_data_loader(self._build_loader_from_start_iter)
        try:
            TrainerBase.train(self, self.start_iter, self.max_iter)
        except FloatingPointError as error:
            raise UserError(
                f"The loss became infinite or NaN at iteration {self.iter}; the images of the "
                f"batch are listed in {self._non_finite.file}; see that they are right or lower "
                f"{self.learning_rate_key}, and go on from the last checkpoint with --resume."
            ) from error
        except RuntimeError as error:
            # PyTorch raises it wherever the main process is when a worker dies.
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                "A process that reads the data died, perhaps because memory ran out; lower "
                f"{self.num_workers_key} and go on from the last checkpoint with --resume."
            ) from error
        return getattr(self, "_last_eval_results", None)

    def run_step(self) -> None:
        """See ``DefaultTrainer``."""
        try:
            super().run_step()
        finally:
            # detectron2 has fetched the losses by now, so that this does not wait for the device.
            self._non_finite.check()

    def _save_config(self) -> None:
        """Put the configuration beside the checkpoints unless ``default_setup`` has done so."""
        file = Path(self.settings.output_dir, "config.yaml")
        if comm.is_main_process() and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            self.save_config(self.cfg, file)

    def _build_loader_from_start_iter(self) -> Iterable[Any]:
        loader = self.build_train_loader(self.with_seed(self.cfg, self._seed_iteration.seed))
        batches = getattr(loader, "batch_sampler", None)
        if isinstance(batches, TrainBatchSampler):
            batches.first_batch = self.start_iter
        elif self.start_iter > 0:
            logger.warning("The data loader cannot skip batches: it restarts from the first one.")
        return loader

    def _choose_step_runner(self, device: torch.device) -> type[SimpleTrainer]:
        if not self.settings.amp_enabled:
            return SimpleTrainer
        key, dtype = self.amp_dtype_key, self.settings.amp_dtype
        check_choice(key, dtype, ("float16", "bfloat16"))
        if dtype == "float16":
            if device.type == "cuda":
                return AMPTrainer
            logger.warning("float16 training needs CUDA: %s becomes bfloat16.", key)
        usable = usable_precision(key, torch.bfloat16, device)
        return BFloat16Trainer if usable == torch.bfloat16 else SimpleTrainer
