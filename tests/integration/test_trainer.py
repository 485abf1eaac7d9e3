"""Tests of training, resuming, mixed precision and evaluation with PANetTrainer."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import needs
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.data.transforms import ResizeShortestEdge

from panet.data.loader import build_train_loader
from panet.engine import PANetTrainer
from panet.evaluation.tta import RCNNEnsemble
from panet.utils import device
from panet.utils.errors import UserError


def weights(trainer: PANetTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def every_loss(trainer: PANetTrainer, name: str) -> list[float]:
    """Train and return the given loss of each iteration."""
    losses: list[float] = []
    step = trainer.after_step

    def record() -> None:
        losses.append(trainer.storage.latest()[name][0])
        step()

    trainer.after_step = record
    trainer.train()
    return losses


def trained(
    cfg: CfgNode, resume: bool = False, loss: str = "total_loss"
) -> tuple[PANetTrainer, list[float]]:
    trainer = PANetTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer, every_loss(trainer, loss)


def without_evaluation(cfg: CfgNode) -> CfgNode:
    cfg = cfg.clone()
    cfg.DATASETS.TEST = ()
    return cfg


def test_the_loss_falls(tiny_cfg: CfgNode) -> None:
    tiny_cfg.SOLVER.MAX_ITER = 80
    tiny_cfg.SOLVER.BASE_LR = 0.002
    _, losses = trained(without_evaluation(tiny_cfg))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


# Without workers, loading data uses the random state of the main process.
@pytest.mark.parametrize(("seed", "workers"), [(7, 1), (-1, 0)])
def test_a_resumed_run_equals_an_undisturbed_one(
    tiny_cfg: CfgNode, seed: int, workers: int
) -> None:
    cfg = without_evaluation(tiny_cfg)
    cfg.SEED = seed
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.SOLVER.MAX_ITER = 6
    cfg.SOLVER.CHECKPOINT_PERIOD = 3
    undisturbed, expected = trained(cfg)
    Path(cfg.OUTPUT_DIR, "last_checkpoint").write_text("model_0000002.pth")
    resumed, losses = trained(cfg, resume=True)
    assert losses == expected[3:]
    for name, value in weights(undisturbed).items():
        assert torch.equal(value, weights(resumed)[name]), name


class WithOwnMapper(PANetTrainer):
    """Changes the augmentation through the mapper of the loader."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[Any]:
        augmentations = [ResizeShortestEdge(64)]
        return build_train_loader(cfg, DatasetMapper(cfg, augmentations=augmentations))


class WithForeignLoader(PANetTrainer):
    """Uses the loader of detectron2."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[Any]:
        return build_detection_train_loader(cfg)


def test_own_loaders_are_used(tiny_cfg: CfgNode, caplog: pytest.LogCaptureFixture) -> None:
    cfg = without_evaluation(tiny_cfg)
    cfg.SOLVER.MAX_ITER = 1
    for trainer_class in (WithOwnMapper, WithForeignLoader):
        trainer = trainer_class(cfg)
        trainer.train()
        first = next(iter(trainer.data_loader))[0]["image"]
        assert min(first.shape[1:]) == (64 if trainer_class is WithOwnMapper else 96)
    assert "cannot skip" not in caplog.text
    cfg.SOLVER.MAX_ITER = 2
    trainer = WithForeignLoader(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    assert "cannot skip batches" in caplog.text


def test_the_same_seed_gives_the_same_run(tiny_cfg: CfgNode) -> None:
    cfg = without_evaluation(tiny_cfg)
    torch.manual_seed(1)
    _, first = trained(cfg)
    torch.manual_seed(1)
    _, second = trained(cfg)
    assert first == second


def test_evaluation_of_the_saved_model_gives_what_training_printed(tiny_cfg: CfgNode) -> None:
    tiny_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    tiny_cfg.SOLVER.MAX_ITER = 12
    trainer = PANetTrainer(tiny_cfg)
    trainer.resume_or_load(resume=False)
    printed = trainer.train()
    assert printed["segm"]["AP"] > 0
    model = PANetTrainer.build_model(tiny_cfg)
    DetectionCheckpointer(model).load(str(Path(tiny_cfg.OUTPUT_DIR) / "model_final.pth"))
    assert_equal_metrics(PANetTrainer.test(tiny_cfg, model), printed)


def assert_equal_metrics(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    for task in ("bbox", "segm"):
        assert actual[task] == pytest.approx(expected[task], abs=1e-6, nan_ok=True)


def test_evaluation_with_augmentation(tiny_cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs: list[dict[str, Any]] = []
    forward = RCNNEnsemble.__call__
    monkeypatch.setattr(
        RCNNEnsemble, "__call__", lambda self, x: inputs.extend(x) or forward(self, x)
    )
    tiny_cfg.TEST.AUG.ENABLED = True
    tiny_cfg.TEST.AUG.MIN_SIZES = (64, 96)
    results = PANetTrainer.test(tiny_cfg, PANetTrainer.build_model(tiny_cfg))
    assert {"bbox", "segm"} <= set(results)
    assert len(inputs) == 12
    assert inputs[0]["image"].shape == (3, 256, 256), "it was resized twice"


@needs.BFLOAT16
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_on_the_cpu(tiny_cfg: CfgNode, dtype: str) -> None:
    cfg = without_evaluation(tiny_cfg)
    # This loss does not depend on the proposals, which rounding errors may change.
    _, exact = trained(cfg, loss="loss_rpn_cls")
    cfg.SOLVER.AMP.ENABLED = True
    cfg.SOLVER.AMP.DTYPE = dtype
    _, losses = trained(cfg, loss="loss_rpn_cls")
    assert losses != exact
    assert losses[0] == pytest.approx(exact[0], rel=0.01)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_on_a_cpu_without_instructions_for_it(
    tiny_cfg: CfgNode, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "has_fast_bfloat16", lambda: False)
    cfg = without_evaluation(tiny_cfg)
    _, exact = trained(cfg)
    torch.manual_seed(0)  # the same initial weights
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE = True, dtype
    _, losses = trained(cfg)
    assert losses == exact


def test_unknown_optimizer_and_precision_are_refused(tiny_cfg: CfgNode) -> None:
    tiny_cfg.SOLVER.OPTIMIZER = "Adam"
    with pytest.raises(ValueError, match="OPTIMIZER is 'Adam'.*'SGD', 'AdamW'"):
        PANetTrainer(tiny_cfg)
    tiny_cfg.SOLVER.OPTIMIZER = "SGD"
    tiny_cfg.SOLVER.AMP.ENABLED = True
    tiny_cfg.SOLVER.AMP.DTYPE = "int8"
    with pytest.raises(ValueError, match="DTYPE is 'int8'.*'float16', 'bfloat16'"):
        PANetTrainer(tiny_cfg)


def test_a_negative_number_of_iterations_is_refused(tiny_cfg: CfgNode) -> None:
    tiny_cfg.SOLVER.MAX_ITER = -5
    with pytest.raises(UserError, match="SOLVER.MAX_ITER is -5; it must be 0 or more"):
        PANetTrainer(tiny_cfg)


def test_nothing_to_resume_from_is_said(
    tiny_cfg: CfgNode, caplog: pytest.LogCaptureFixture
) -> None:
    PANetTrainer(tiny_cfg).resume_or_load(resume=True)
    assert "to resume from; training starts from the beginning" in caplog.text
