"""The trainer for configurations in YAML."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, verify_results
from detectron2.utils import comm
from detectron2.utils.events import has_event_storage
from torch import nn

from panet.checkpoint import PANetCheckpointer, build_checkpointer, load_independent_rpn
from panet.data.availability import check_classes, check_datasets, check_split
from panet.data.loader import build_test_loader, build_train_loader
from panet.deployment import load_trained_model
from panet.deployment.optimize import optimize_from_config
from panet.evaluation import InBackground, PictureRecorder, build_evaluator
from panet.evaluation.tta import RCNNEnsemble, add_tta
from panet.modeling.build import build_model
from panet.prepare import prepare

from .hooks import progress_bars
from .optimizer import build_optimizer
from .resumable import ResumableTrainer, RunSettings

logger = logging.getLogger(__name__)


class PANetTrainer(ResumableTrainer):
    """detectron2's ``DefaultTrainer`` with what it and :class:`ResumableTrainer` lack.

    - It chooses the evaluator from the dataset, and evaluates with the augmentation and voting that
      ``TEST`` asks for.
    - Its evaluations leave pictures for TensorBoard, see ``TEST.NUM_PICTURES``.
    """

    amp_dtype_key = "SOLVER.AMP.DTYPE"
    learning_rate_key = "SOLVER.BASE_LR"
    num_workers_key = "DATALOADER.NUM_WORKERS"

    def __init__(self, cfg: CfgNode) -> None:
        """
        Args:
            cfg: it is left as it is; the trainer's own is :func:`panet.prepare.prepare`d.
        """
        cfg = cfg.clone()
        cfg.defrost()
        super().__init__(DefaultTrainer.auto_scale_workers(prepare(cfg), comm.get_world_size()))

    @classmethod
    def read_settings(cls, cfg: CfgNode) -> RunSettings:
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
    def check_data(cls, cfg: CfgNode, splits: Sequence[str] = ("TRAIN", "TEST")) -> None:
        for split in splits:
            check_split(cfg, split)

    @classmethod
    def build_checkpointer(
        cls, cfg: CfgNode, model: nn.Module, **checkpointables: Any
    ) -> PANetCheckpointer:
        return build_checkpointer(cfg, model, cfg.OUTPUT_DIR, **checkpointables)

    @classmethod
    def with_seed(cls, cfg: CfgNode, seed: int) -> CfgNode:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SEED = seed
        return cfg

    @classmethod
    def save_config(cls, cfg: CfgNode, file: Path) -> None:
        file.write_text(cfg.dump())

    def train(self) -> Any:
        """See :class:`ResumableTrainer`; also compares with ``TEST.EXPECTED_RESULTS``."""
        results = super().train()
        if comm.is_main_process():
            verify_results(self.cfg, results)
        return results

    @classmethod
    def evaluate(cls, cfg: CfgNode, resume: bool = False) -> dict[str, Any]:
        """See :class:`ResumableTrainer`; the members of ``TEST.ENSEMBLE``, if it has any."""
        if cfg.TEST.ENSEMBLE.MEMBERS:
            results = cls.test(cfg, load_trained_model(cfg)[0])
        else:
            results = super().evaluate(cfg, resume)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results

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
        """Batches for training; override it to call the function of the same name with a mapper.

        Loaders of that function resume with the run.
        """
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[Any]:
        check_datasets(cfg, (dataset_name,))
        if cfg.TEST.AUG.ENABLED:  # which resizes images itself
            cfg = cfg.clone()
            cfg.defrost()
            cfg.INPUT.MIN_SIZE_TEST = 0
        loader = build_test_loader(cfg, dataset_name)
        check_classes(cfg, (dataset_name,))  # some are known only now
        return loader

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        evaluator = InBackground(build_evaluator(cfg, dataset_name))
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
        if not isinstance(model, RCNNEnsemble):
            model = add_tta(cfg, optimize_from_config(model, cfg))
        return super().test(cfg, model, evaluators)
