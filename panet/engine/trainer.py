"""The trainer: detectron2's, on the CPU as well as on GPUs, with exact resuming."""

import logging
import sys
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.utils import comm
from detectron2.utils.events import has_event_storage
from detectron2.utils.logger import setup_logger
from torch import nn

from panet.checkpoint import build_checkpointer
from panet.data.availability import check_classes, check_datasets
from panet.data.loader import TrainBatchSampler, build_train_loader
from panet.data.proposals import proposals_read_safely
from panet.data.records import one_line_errors
from panet.deployment import optimize_from_config
from panet.device import replace_cuda_only_norms
from panet.errors import InputError
from panet.evaluation import PictureRecorder, build_evaluator
from panet.modeling.choices import check_choice
from panet.modeling.convolutions import activate_in_place

from .amp import BFloat16Trainer
from .hooks import ProgressBar, SeedIteration
from .interruption import StopOnSignal
from .non_finite import NonFiniteLosses
from .optimizer import build_optimizer

logger = logging.getLogger(__name__)


class PANetTrainer(DefaultTrainer):
    """detectron2's ``DefaultTrainer`` with what it lacks.

    - It runs on the CPU, in one process or several (gloo), and in bfloat16.
    - A resumed run reads the data and draws the random numbers of an undisturbed one.
    - It chooses the evaluator from the dataset, and evaluates with test-time augmentation if
      ``TEST.AUG.ENABLED``.
    - Its evaluations leave pictures for TensorBoard, see ``TEST.NUM_PICTURES``.
    """

    def __init__(self, cfg: CfgNode) -> None:
        # DefaultTrainer's own would wrap the model for CUDA, and would read the dataset before
        # it is known from which iteration on it is needed.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        on_cpu = torch.device(cfg.MODEL.DEVICE).type == "cpu"
        # device_ids are those of GPUs; None for a model on the CPU.
        device_ids = {"device_ids": None} if on_cpu else {}
        model = create_ddp_model(model, broadcast_buffers=False, **device_ids)
        self._trainer = _step_runner(cfg)(model, None, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = build_checkpointer(
            cfg, model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        self._seed_iteration = SeedIteration(seed)
        self.register_hooks([self._seed_iteration, *self.build_hooks(), StopOnSignal()])
        self._non_finite = NonFiniteLosses(model, Path(cfg.OUTPUT_DIR))

    def train(self) -> Any:
        """Train from ``start_iter`` to ``max_iter``.

        Returns:
            The metrics of the last evaluation, on the main process.

        Raises:
            InputError: if the data or the run's folder fail, or the loss is infinite or NaN.
            KeyboardInterrupt, SystemExit: after SIGINT and SIGTERM, once a checkpoint is saved.
        """
        self._save_config()
        self._trainer.reset_data_loader(self._build_loader_from_start_iter)
        try:
            super().train()
        except FloatingPointError as error:
            raise InputError(
                f"The loss became infinite or NaN at iteration {self.iter}; the images of the "
                f"batch are listed in {self._non_finite.file}; see that they are right or lower "
                "SOLVER.BASE_LR, and go on from the last checkpoint with --resume."
            ) from error
        except RuntimeError as error:
            # PyTorch raises it wherever the main process is when a worker dies.
            if "DataLoader worker" not in str(error):
                raise
            raise InputError(
                "A process that reads the data died, perhaps because memory ran out; lower "
                "DATALOADER.NUM_WORKERS and go on from the last checkpoint with --resume."
            ) from error
        return getattr(self, "_last_eval_results", None)

    def _save_config(self) -> None:
        """Put the configuration beside the checkpoints unless ``default_setup`` has done so."""
        file = Path(self.cfg.OUTPUT_DIR, "config.yaml")
        if comm.is_main_process() and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self.cfg.dump())

    def _build_loader_from_start_iter(self) -> Iterable[Any]:
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.SEED = self._seed_iteration.seed
        loader = self.build_train_loader(cfg)
        batches = getattr(loader, "batch_sampler", None)
        if isinstance(batches, TrainBatchSampler):
            batches.first_batch = self.start_iter
        elif self.start_iter > 0:
            logger.warning("The data loader cannot skip batches: it starts anew, not where it was.")
        return loader

    def build_hooks(self) -> list[HookBase]:
        hooks = super().build_hooks()
        if comm.is_main_process() and sys.stderr.isatty():
            hooks.insert(0, ProgressBar())
        return hooks

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        if comm.get_world_size() > 1 and torch.device(cfg.MODEL.DEVICE).type == "cpu":
            cfg = cfg.clone()
            cfg.defrost()
            replace_cuda_only_norms(cfg)
        model = super().build_model(cfg)
        activate_in_place(model)
        return model.to(memory_format=torch.channels_last) if cfg.MODEL.CHANNELS_LAST else model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[Any]:
        """Batches for training; override it to call the function of the same name with a mapper.

        Loaders of that function go on where they were when a run is resumed.
        """
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[Any]:
        check_datasets(cfg, (dataset_name,))
        with proposals_read_safely(cfg, "TEST"), one_line_errors(dataset_name):
            loader: Iterable[Any] = super().build_test_loader(cfg, dataset_name)
        check_classes(cfg, (dataset_name,))  # some are known only now
        return loader

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        evaluator = build_evaluator(cfg, dataset_name)
        if not has_event_storage():  # not within a training
            return evaluator
        pictures = PictureRecorder(dataset_name, cfg.TEST.NUM_PICTURES)
        return DatasetEvaluators([evaluator, pictures])

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: list[DatasetEvaluator] | None = None,
    ) -> dict[str, Any]:
        """Evaluate ``model`` on ``DATASETS.TEST``, see ``DefaultTrainer.test``."""
        model = optimize_from_config(model, cfg)
        if cfg.TEST.AUG.ENABLED:
            model = GeneralizedRCNNWithTTA(cfg, model)
        return super().test(cfg, model, evaluators)


def _step_runner(cfg: CfgNode) -> type[SimpleTrainer]:
    if not cfg.SOLVER.AMP.ENABLED:
        return SimpleTrainer
    check_choice("SOLVER.AMP.DTYPE", cfg.SOLVER.AMP.DTYPE, ("float16", "bfloat16"))
    if cfg.SOLVER.AMP.DTYPE == "bfloat16":
        return BFloat16Trainer
    if torch.device(cfg.MODEL.DEVICE).type == "cpu":
        logger.warning("float16 training needs CUDA: SOLVER.AMP.DTYPE becomes bfloat16.")
        return BFloat16Trainer
    return AMPTrainer
