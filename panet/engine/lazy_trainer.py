"""The trainer for Python configurations."""

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import HookBase, default_writers, hooks
from detectron2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_on_dataset,
    print_csv_format,
)
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, has_event_storage
from omegaconf import DictConfig, OmegaConf
from torch import nn

from panet.checkpoint import PANetCheckpointer, build_lazy_checkpointer
from panet.config_device import fall_back_to_cpu, replace_cuda_only_norms
from panet.data.availability import check_files, compare_classes
from panet.deployment.optimize import optimize_by_name
from panet.evaluation import InBackground, PictureRecorder
from panet.lazy_config import dataset_names
from panet.modeling.build import lay_out

from .hooks import progress_bars
from .trainer import PANetTrainer, RunSettings


class LazyTrainer(PANetTrainer):
    """:class:`PANetTrainer` for configurations of :func:`panet.lazy_config.load_lazy_config`.

    It reads ``model``, ``optimizer``, ``lr_multiplier``, ``dataloader`` and ``train`` like
    detectron2's ``lazyconfig_train_net.py``. Without ``dataloader.evaluator`` it does not evaluate.
    Custom datasets, TTA and ensembles need a YAML configuration.
    """

    amp_dtype_key: ClassVar[str] = "train.amp.dtype"
    learning_rate_key: ClassVar[str] = "optimizer.lr"
    max_iter_key: ClassVar[str] = "train.max_iter"
    num_workers_key: ClassVar[str] = "dataloader.train.num_workers"

    @classmethod
    def prepare(cls, cfg: DictConfig) -> DictConfig:
        """A copy of ``cfg`` for this machine: without CUDA, ``train.device`` becomes "cpu"."""
        cfg = copy.deepcopy(cfg)
        fall_back_to_cpu(cfg)
        return cfg

    @classmethod
    def read_settings(cls, cfg: DictConfig) -> RunSettings:
        train = cfg.train
        return RunSettings(
            output_dir=train.output_dir,
            device=train.device,
            weights=train.init_checkpoint,
            seed=train.seed,
            max_iter=train.max_iter,
            amp_enabled=train.amp.enabled,
            amp_dtype=train.amp.dtype,
            ddp=dict(train.ddp),
        )

    @classmethod
    def datasets(cls, cfg: DictConfig, split: str) -> Sequence[str]:
        return dataset_names(cfg, split.lower())

    @classmethod
    def check_data(cls, cfg: DictConfig, splits: Sequence[str] = ("TRAIN", "TEST")) -> None:
        for split in splits:
            if split == "TRAIN" or _has_evaluation(cfg):
                _check_data(cfg, split.lower())

    @classmethod
    def build_checkpointer(
        cls, cfg: DictConfig, model: nn.Module, **checkpointables: Any
    ) -> PANetCheckpointer:
        return build_lazy_checkpointer(cfg, model, cfg.train.output_dir, **checkpointables)

    @classmethod
    def with_seed(cls, cfg: DictConfig, seed: int) -> DictConfig:
        cfg = copy.deepcopy(cfg)
        cfg.train.seed = seed
        return cfg

    @classmethod
    def save_config(cls, cfg: DictConfig, file: Path) -> None:
        LazyConfig.save(cfg, str(file))

    @classmethod
    def evaluate(cls, cfg: DictConfig, resume: bool = False) -> dict[str, Any]:
        return cls.test(cfg, cls._load_model(cfg, resume))

    def verify(self, results: dict[str, Any] | None) -> None:
        """Python configurations have no expected results."""

    def build_hooks(self) -> list[HookBase]:
        train = self.cfg.train
        result = [*progress_bars(), hooks.IterationTimer(), hooks.LRScheduler()]
        if comm.is_main_process():
            result.append(hooks.PeriodicCheckpointer(self.checkpointer, **train.checkpointer))
        if _has_evaluation(self.cfg):
            # After the checkpoint, which survives a failing evaluation.
            result.append(hooks.EvalHook(train.eval_period, self._evaluate))
        if comm.is_main_process():
            result.append(hooks.PeriodicWriter(self.build_writers(), period=train.log_period))
        return result

    def _evaluate(self) -> dict[str, Any]:
        self._last_eval_results = self.test(self.cfg, self.model)
        return self._last_eval_results

    def build_writers(self) -> list[EventWriter]:
        writers: list[EventWriter] = default_writers(self.cfg.train.output_dir, self.max_iter)
        return writers

    @classmethod
    def build_model(cls, cfg: DictConfig) -> nn.Module:
        node = cfg.model
        if comm.get_world_size() > 1 and torch.device(cfg.train.device).type == "cpu":
            node = copy.deepcopy(node)
            replace_cuda_only_norms(node)
        return lay_out(instantiate(node).to(cfg.train.device), cfg.train.channels_last)

    @classmethod
    def build_optimizer(cls, cfg: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
        node = copy.deepcopy(cfg.optimizer)
        node.params.model = model
        optimizer: torch.optim.Optimizer = instantiate(node)
        return optimizer

    @classmethod
    def build_lr_scheduler(
        cls, cfg: DictConfig, optimizer: torch.optim.Optimizer
    ) -> torch.optim.lr_scheduler.LRScheduler:
        return LRMultiplier(optimizer, instantiate(cfg.lr_multiplier), cfg.train.max_iter)

    @classmethod
    def build_train_loader(cls, cfg: DictConfig) -> Iterable[Any]:
        return _build_loader(cfg, "train")

    @classmethod
    def build_test_loader(cls, cfg: DictConfig) -> Iterable[Any]:  # type: ignore[override]
        return _build_loader(cfg, "test")

    @classmethod
    def build_evaluator(cls, cfg: DictConfig) -> DatasetEvaluator:  # type: ignore[override]
        found = instantiate(cfg.dataloader.evaluator)
        found = [found] if isinstance(found, DatasetEvaluator) else found
        evaluators: list[DatasetEvaluator] = [InBackground(evaluator) for evaluator in found]
        if has_event_storage():  # during training
            for name in dataset_names(cfg, "test"):
                number = cfg.train.eval_pictures
                evaluators.append(PictureRecorder(name, number, key="train.eval_pictures"))
        return DatasetEvaluators(evaluators)

    @classmethod
    def test(
        cls,
        cfg: DictConfig,
        model: nn.Module,
        evaluators: list[DatasetEvaluator] | None = None,
    ) -> dict[str, Any]:
        """Evaluate ``model`` on ``dataloader.test``, by default with ``dataloader.evaluator``."""
        if not _has_evaluation(cfg):
            return {}
        options = cfg.train.eval_optimize
        if options.enabled:
            key = "train.eval_optimize.dtype"
            model = optimize_by_name(model, key, options.dtype, options.compile)
        loader = cls.build_test_loader(cfg)
        # Built after the loader, because loading a dataset may write the files it reads.
        evaluator = DatasetEvaluators(evaluators) if evaluators else cls.build_evaluator(cfg)
        results: dict[str, Any] = inference_on_dataset(model, loader, evaluator)
        if comm.is_main_process():
            print_csv_format(results)
        return results


def _has_evaluation(cfg: DictConfig) -> bool:
    return cfg.dataloader.get("evaluator") is not None


def _build_loader(cfg: DictConfig, which: str) -> Iterable[Any]:
    check_files(dataset_names(cfg, which))
    loader: Iterable[Any] = instantiate(cfg.dataloader[which])
    _check_data(cfg, which)  # some datasets set their classes when they are loaded
    return loader


def _check_data(cfg: DictConfig, which: str) -> None:
    """Check the files and classes of the datasets that ``names`` of a loader lists."""
    names = dataset_names(cfg, which)
    check_files(names)
    key = "model.roi_heads.num_classes"
    num_classes = OmegaConf.select(cfg, key)
    if num_classes is not None:
        compare_classes(names, num_classes, key)
