"""PANet's trainer."""

import logging
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    HookBase,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
)
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, verify_results
from detectron2.utils import comm
from detectron2.utils.events import has_event_storage
from detectron2.utils.logger import setup_logger
from torch import nn

from panet.checkpoint import PANetCheckpointer, build_checkpointer, load_independent_rpn
from panet.data.availability import check_classes, check_datasets, check_split
from panet.data.loader import TrainBatchSampler, build_test_loader, build_train_loader
from panet.deployment import load_trained_model
from panet.deployment.optimize import optimize_from_config
from panet.evaluation import InBackground, PictureRecorder, build_evaluator
from panet.evaluation.tta import RCNNEnsemble, add_tta
from panet.modeling.build import build_model
from panet.prepare import prepare
from panet.utils.choices import check_choice
from panet.utils.device import usable_precision
from panet.utils.errors import UserError

from .amp import BFloat16Trainer
from .hooks import SeedIteration, progress_bars
from .interruption import StopOnSignal
from .non_finite import NonFiniteLosses
from .optimizer import build_optimizer

logger = logging.getLogger(__name__)


class RunSettings(NamedTuple):
    """What the trainer reads from a configuration of either kind.

    Attributes:
        output_dir: folder of the run.
        device: device of the model, e.g. "cuda".
        weights: initial checkpoint; "" for random weights.
        seed: negative for a random one.
        max_iter: number of iterations.
        amp_enabled: whether to train in mixed precision.
        amp_dtype: "float16" or "bfloat16".
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


class PANetTrainer(DefaultTrainer):
    """detectron2's ``DefaultTrainer`` with what PANet's recipes and long runs need.

    - It also trains on the CPU, in one or several (gloo) processes, and in bfloat16.
    - A resumed run reads the same batches and draws the same random numbers as an uninterrupted
      one.
    - Signals, non-finite losses and crashed workers leave a run that can be resumed.
    - The evaluator follows from the dataset, and evaluation applies ``TEST``'s augmentation and
      voting. Evaluations during training write visualizations to TensorBoard.

    Attributes:
        amp_dtype_key, learning_rate_key, max_iter_key, num_workers_key: configuration keys, for
            messages.
    """

    amp_dtype_key: ClassVar[str] = "SOLVER.AMP.DTYPE"
    learning_rate_key: ClassVar[str] = "SOLVER.BASE_LR"
    max_iter_key: ClassVar[str] = "SOLVER.MAX_ITER"
    num_workers_key: ClassVar[str] = "DATALOADER.NUM_WORKERS"

    def __init__(self, cfg: CfgNode) -> None:
        """
        Args:
            cfg: not modified; the trainer uses a copy after :func:`panet.prepare.prepare`.
        """
        # DefaultTrainer's constructor would wrap the model for CUDA, and would build the data
        # loader before the first iteration is known.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        self.cfg = cfg = self.prepare(cfg)
        settings = self.settings
        if settings.max_iter < 0:
            raise UserError(f"{self.max_iter_key} is {settings.max_iter}; it must be 0 or more.")
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        device = next(model.parameters()).device
        # DDP takes device_ids of GPUs, or None for a model on the CPU.
        device_ids = {"device_ids": None} if device.type == "cpu" else {}
        model = create_ddp_model(model, **settings.ddp, **device_ids)
        self._trainer = self._step_runner(device)(model, None, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = self.build_checkpointer(cfg, model, trainer=weakref.proxy(self))
        self.max_iter = settings.max_iter
        self._seed_iteration = SeedIteration(
            settings.seed if settings.seed >= 0 else comm.shared_random_seed()
        )
        self.register_hooks([self._seed_iteration, *self.build_hooks(), StopOnSignal()])
        self._non_finite = NonFiniteLosses(model, Path(settings.output_dir))

    @property
    def settings(self) -> RunSettings:
        """The current settings of the run."""
        return self.read_settings(self.cfg)

    @classmethod
    def prepare(cls, cfg: CfgNode) -> CfgNode:
        """A copy of ``cfg`` that is ready to be trained with this number of processes."""
        cfg = cfg.clone()
        cfg.defrost()
        return cls.auto_scale_workers(prepare(cfg), comm.get_world_size())

    @classmethod
    def read_settings(cls, cfg: CfgNode) -> RunSettings:
        """The settings of the run."""
        return RunSettings(
            output_dir=cfg.OUTPUT_DIR,
            device=cfg.MODEL.DEVICE,
            weights=cfg.MODEL.WEIGHTS,
            seed=cfg.SEED,
            max_iter=cfg.SOLVER.MAX_ITER,
            amp_enabled=cfg.SOLVER.AMP.ENABLED,
            amp_dtype=cfg.SOLVER.AMP.DTYPE,
            ddp={"broadcast_buffers": False},
        )

    @classmethod
    def datasets(cls, cfg: CfgNode, split: str) -> Sequence[str]:
        """The names of the datasets of the split "TRAIN" or "TEST"."""
        names: Sequence[str] = cfg.DATASETS[split]
        return names

    @classmethod
    def check_data(cls, cfg: CfgNode, splits: Sequence[str] = ("TRAIN", "TEST")) -> None:
        """Check that the datasets exist and fit the model.

        Raises:
            UserError: if they do not.
        """
        for split in splits:
            check_split(cfg, split)

    @classmethod
    def build_checkpointer(
        cls, cfg: CfgNode, model: nn.Module, **checkpointables: Any
    ) -> PANetCheckpointer:
        """The checkpointer of the run's folder."""
        return build_checkpointer(cfg, model, cfg.OUTPUT_DIR, **checkpointables)

    @classmethod
    def with_seed(cls, cfg: CfgNode, seed: int) -> CfgNode:
        """A copy of ``cfg`` with this seed."""
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SEED = seed
        return cfg

    @classmethod
    def save_config(cls, cfg: CfgNode, file: Path) -> None:
        """Write ``cfg`` to a YAML file."""
        file.write_text(cfg.dump())

    @classmethod
    def evaluate(cls, cfg: CfgNode, resume: bool = False) -> dict[str, Any]:
        """Build the model or the members of ``TEST.ENSEMBLE``, load the weights and test.

        Args:
            cfg: as for training.
            resume: test the last checkpoint of the run, if there is one, instead of the initial
                weights.

        Returns:
            The metrics, on the main process.
        """
        if cfg.TEST.ENSEMBLE.MEMBERS:
            model = load_trained_model(cfg)[0]
        else:
            model = cls._load_model(cfg, resume)
        results = cls.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results

    @classmethod
    def _load_model(cls, cfg: Any, resume: bool) -> nn.Module:
        model = cls.build_model(cfg)
        weights = cls.read_settings(cfg).weights
        cls.build_checkpointer(cfg, model).resume_or_load(weights, resume=resume)
        return model

    def resume_or_load(self, resume: bool = True) -> None:
        """Load the last checkpoint of the run if ``resume``, else the initial weights.

        Raises:
            UserError: if it cannot be loaded.
        """
        self.checkpointer.resume_or_load(self.settings.weights, resume=resume)
        if resume and not self.checkpointer.has_checkpoint():
            logger.warning(
                "There is no checkpoint in %s to resume from; training starts from the beginning.",
                self.settings.output_dir,
            )
        elif resume:
            # The checkpoint stores the iteration that had just finished.
            self.start_iter = self.iter + 1

    def train(self) -> Any:
        """Train from ``start_iter`` to ``max_iter``.

        Returns:
            The metrics of the last evaluation, on the main process.

        Raises:
            UserError: if the data or the run's folder fail, or the loss is infinite or NaN.
            KeyboardInterrupt, SystemExit: after SIGINT or SIGTERM, once a checkpoint is saved.
        """
        self._save_config()
        self._trainer.reset_data_loader(self._loader_from_start_iter)
        try:
            TrainerBase.train(self, self.start_iter, self.max_iter)
        except FloatingPointError as error:
            raise UserError(
                f"The loss became infinite or NaN at iteration {self.iter}; the images of the "
                f"batch are listed in {self._non_finite.files}. Check their annotations or lower "
                f"{self.learning_rate_key}, and resume from the last checkpoint with --resume."
            ) from error
        except RuntimeError as error:
            # PyTorch raises it wherever the main process is when a worker dies.
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                "A data loading process died, perhaps because memory ran out; lower "
                f"{self.num_workers_key} and resume from the last checkpoint with --resume."
            ) from error
        results = getattr(self, "_last_eval_results", None)
        if comm.is_main_process():
            self.verify(results)
        return results

    def verify(self, results: dict[str, Any] | None) -> None:
        """Compare with ``TEST.EXPECTED_RESULTS``; a failed assertion ends the program."""
        verify_results(self.cfg, results)

    def run_step(self) -> None:
        """See ``DefaultTrainer``."""
        try:
            super().run_step()
        finally:
            # detectron2 has fetched the losses by now, so this does not wait for the device.
            self._non_finite.check()

    def _save_config(self) -> None:
        """Write the configuration beside the checkpoints unless ``default_setup`` has."""
        file = Path(self.settings.output_dir, "config.yaml")
        if comm.is_main_process() and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            self.save_config(self.cfg, file)

    def _loader_from_start_iter(self) -> Iterable[Any]:
        loader = self.build_train_loader(self.with_seed(self.cfg, self._seed_iteration.seed))
        batches = getattr(loader, "batch_sampler", None)
        if isinstance(batches, TrainBatchSampler):
            batches.first_batch = self.start_iter
        elif self.start_iter > 0:
            logger.warning("This data loader cannot skip batches; it starts at the first one.")
        return loader

    def _step_runner(self, device: torch.device) -> type[SimpleTrainer]:
        if not self.settings.amp_enabled:
            return SimpleTrainer
        key, dtype = self.amp_dtype_key, self.settings.amp_dtype
        check_choice(key, dtype, ("float16", "bfloat16"))
        if dtype == "float16":
            if device.type == "cuda":
                return AMPTrainer
            logger.warning("Training in float16 needs CUDA; %s becomes bfloat16.", key)
        usable = usable_precision(key, torch.bfloat16, device)
        return BFloat16Trainer if usable == torch.bfloat16 else SimpleTrainer

    def build_hooks(self) -> list[HookBase]:
        return [*progress_bars(), *super().build_hooks()]

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = build_model(cfg)
        load_independent_rpn(cfg, model)
        logger.info("Model:\n%s", model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[Any]:
        """The training batches.

        Override it to call :func:`panet.data.loader.build_train_loader` with a mapper; loaders of
        that function resume with the run.
        """
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[Any]:
        check_datasets(cfg, (dataset_name,))
        if cfg.TEST.AUG.ENABLED:  # TTA resizes the images itself
            cfg = cfg.clone()
            cfg.defrost()
            cfg.INPUT.MIN_SIZE_TEST = 0
        loader = build_test_loader(cfg, dataset_name)
        check_classes(cfg, (dataset_name,))  # some datasets set their classes when they are loaded
        return loader

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        evaluator = InBackground(build_evaluator(cfg, dataset_name))
        if not has_event_storage():  # not during training
            return evaluator
        recorder = PictureRecorder(dataset_name, cfg.TEST.NUM_PICTURES)
        return DatasetEvaluators([evaluator, recorder])

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: list[DatasetEvaluator] | None = None,
    ) -> dict[str, Any]:
        """Evaluate ``model`` on ``DATASETS.TEST``, see ``DefaultTrainer.test``."""
        if not isinstance(model, RCNNEnsemble):
            model = add_tta(cfg, optimize_from_config(model, cfg))
        return super().test(cfg, model, evaluators)
