"""Tests of training, resuming and evaluation with Python configurations."""

import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import needs
import pytest
import torch
from detectron2.config import CfgNode, LazyCall, LazyConfig
from detectron2.data import build_detection_train_loader
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, OmegaConf
from paths import CONFIGS, DETECTRON2_CONFIGS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from panet.checkpoint import PANetCheckpointer
from panet.engine import LazyTrainer, PANetTrainer
from panet.lazy_config import load_lazy_config
from panet.utils.errors import UserError

QUICK = CONFIGS / "lazy" / "quick" / "panet_R18_shapes.py"


def read(dataset: str, output_dir: Path, overrides: Sequence[str] = ()) -> DictConfig:
    """Return the Python version of ``tiny_cfg``, without evaluation."""
    cfg = load_lazy_config(str(QUICK), ["train.device=cpu", *overrides])
    cfg.train.output_dir = str(output_dir)
    cfg.train.max_iter = 4
    cfg.train.amp = {"enabled": False, "dtype": "float16"}
    cfg.optimizer.lr = 0.0006
    cfg.lr_multiplier.warmup_length = 0.0
    cfg.model.backbone.out_channels = cfg.model.proposal_generator.head.in_channels = 32
    cfg.model.proposal_generator.post_nms_topk = (50, 20)
    heads = cfg.model.roi_heads
    heads.batch_size_per_image = 16
    heads.box_head.recompute = heads.mask_head.recompute = True
    heads.box_head.fc_dims = [32, 32]
    heads.box_predictor.input_shape.channels = 32
    heads.box_head.input_shape.channels = heads.mask_head.input_shape.channels = 32
    for loader, size in ((cfg.dataloader.train, (96,)), (cfg.dataloader.test, 96)):
        loader.dataset.names = dataset
        loader.mapper.augmentations[0].short_edge_length = size
    cfg.dataloader.train.total_batch_size = 2
    cfg.dataloader.evaluator = None
    return cfg


@pytest.fixture
def cfg(tiny_dataset: str, tmp_path: Path) -> DictConfig:
    return read(tiny_dataset, tmp_path / "lazy")


def with_evaluation(cfg: DictConfig) -> DictConfig:
    cfg.dataloader.evaluator = load_lazy_config(str(QUICK)).dataloader.evaluator
    return cfg


def weights(trainer: LazyTrainer | PANetTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def trained(cfg: DictConfig, resume: bool = False) -> LazyTrainer:
    torch.manual_seed(3)
    trainer = LazyTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def test_trains_as_from_yaml(cfg: DictConfig, tiny_cfg: CfgNode) -> None:
    tiny_cfg.DATASETS.TEST = ()
    torch.manual_seed(3)
    from_yaml = PANetTrainer(tiny_cfg)
    start = weights(from_yaml)
    from_yaml.train()
    model = Path(cfg.train.output_dir, "start.pth")
    model.parent.mkdir()
    torch.save({"model": start}, model)
    cfg.train.init_checkpoint = str(model)
    assert_equal(weights(trained(cfg)), weights(from_yaml))


@pytest.mark.parametrize(("seed", "workers"), [(7, 1), (-1, 0)])
def test_a_resumed_run_equals_an_undisturbed_one(cfg: DictConfig, seed: int, workers: int) -> None:
    cfg.train.seed = seed
    cfg.dataloader.train.num_workers = workers
    cfg.train.checkpointer.period = 2
    undisturbed = trained(cfg)
    folder = Path(cfg.train.output_dir)
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    resumed = trained(cfg, resume=True)
    assert resumed.start_iter == 2
    assert_equal(weights(resumed), weights(undisturbed))
    assert (folder / "config.yaml").is_file()


class Interrupt(HookBase):
    """Sends SIGTERM to this process after the second iteration."""

    def after_step(self) -> None:
        if self.trainer.iter == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_saves(cfg: DictConfig) -> None:
    expected = weights(trained(cfg))
    cfg.train.output_dir += "_interrupted"
    torch.manual_seed(3)
    trainer = LazyTrainer(cfg)
    trainer.register_hooks([Interrupt()])
    with pytest.raises(SystemExit):
        trainer.train()
    resumed = trained(cfg, resume=True)
    assert resumed.start_iter in (2, 3)
    assert_equal(weights(resumed), expected)


def test_a_loss_that_is_not_a_number_names_the_keys_of_python(cfg: DictConfig) -> None:
    trainer = LazyTrainer(cfg)
    trainer.model.roi_heads.box_predictor.cls_score.bias.data.fill_(float("nan"))
    with pytest.raises(UserError, match=r"non_finite_batch_0.json.*lower optimizer.lr"):
        trainer.train()


def test_evaluation_of_the_saved_model_gives_what_training_printed(cfg: DictConfig) -> None:
    with_evaluation(cfg)
    cfg.model.roi_heads.box_predictor.test_score_thresh = 0.0
    cfg.train.max_iter = 12
    cfg.train.eval_period = 6
    trainer = LazyTrainer(cfg)
    printed = trainer.train()
    assert printed["segm"]["AP"] > 0
    folder = Path(cfg.train.output_dir)
    assert (folder / "inference" / "coco_instances_results.json").is_file()
    assert pictures(folder) > 0
    cfg.train.init_checkpoint = str(folder / "model_final.pth")
    evaluated = LazyTrainer.evaluate(cfg)
    for task in ("bbox", "segm"):
        assert evaluated[task] == pytest.approx(printed[task], abs=1e-6, nan_ok=True)


def pictures(folder: Path) -> int:
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return len(events.Tags()["images"])


@needs.BFLOAT16
def test_mixed_precision_on_the_cpu(cfg: DictConfig, caplog: pytest.LogCaptureFixture) -> None:
    exact = weights(trained(cfg))
    cfg.train.amp.enabled = True
    with caplog.at_level(logging.WARNING):
        rounded = weights(trained(cfg))
    assert "Training in float16 needs CUDA; train.amp.dtype becomes bfloat16" in caplog.text
    assert any(not torch.equal(value, exact[name]) for name, value in rounded.items())
    cfg.train.amp.dtype = "int8"
    with pytest.raises(UserError, match="train.amp.dtype is 'int8'"):
        LazyTrainer(cfg)


def test_wrong_data_is_told_before_training(cfg: DictConfig) -> None:
    LazyTrainer.check_data(cfg)
    cfg.model.roi_heads.num_classes = 3
    with pytest.raises(UserError, match=r"4 classes, but model.roi_heads.num_classes is 3"):
        LazyTrainer.check_data(cfg)
    cfg.dataloader.train.dataset.names = "tiny_shape"
    with pytest.raises(UserError, match="'tiny_shape' is not registered.*'tiny_shapes'"):
        LazyTrainer.check_data(cfg)


def test_classes_of_another_dataset_are_taken_over(cfg: DictConfig) -> None:
    cfg.train.class_transfer.source_dataset = "shapes_train"
    cfg.train.class_transfer.synonyms = [["disk", "star"]]
    model = LazyTrainer.build_model(cfg)
    checkpointer = LazyTrainer.build_checkpointer(cfg, model)
    assert isinstance(checkpointer, PANetCheckpointer)
    assert (checkpointer.dataset, checkpointer.source_dataset) == ("tiny_shapes", "shapes_train")
    assert [list(pair) for pair in checkpointer.synonyms] == [["disk", "star"]]
    with pytest.raises(UserError, match="gone.pth; set train.init_checkpoint to an existing"):
        checkpointer.load("gone.pth")
    for key in (checkpointer.source_dataset_key, checkpointer.synonyms_key):
        assert OmegaConf.select(cfg, key)


def test_a_wrong_number_of_visualizations_names_the_key_of_python(cfg: DictConfig) -> None:
    with_evaluation(cfg)
    cfg.train.eval_pictures = -1
    with EventStorage(), pytest.raises(UserError, match=r"^train\.eval_pictures is -1"):
        LazyTrainer.build_evaluator(cfg)


def test_detectron2s_own_loader_and_model(
    tiny_dataset: str, cfg: DictConfig, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = LazyConfig.load(str(DETECTRON2_CONFIGS / "common" / "data" / "coco.py")).dataloader
    theirs.train.dataset.names = tiny_dataset
    theirs.train.mapper = cfg.dataloader.train.mapper
    theirs.train.update(total_batch_size=2, num_workers=0)
    theirs.pop("evaluator")
    assert theirs.train._target_ == build_detection_train_loader
    cfg.dataloader = theirs
    trained(cfg)
    assert "cannot skip" not in caplog.text
    cfg.train.max_iter = 5
    trained(cfg, resume=True)
    assert "cannot skip batches" in caplog.text


def test_several_evaluators(cfg: DictConfig) -> None:
    with_evaluation(cfg)
    own = cfg.dataloader.evaluator
    cfg.dataloader.evaluator = [
        own,
        LazyCall(type(LazyTrainer.build_evaluator(cfg)))(evaluators=[]),
    ]
    cfg.dataloader.evaluator[0].dataset_name = "tiny_shapes"
    assert len(LazyTrainer.build_evaluator(cfg)._evaluators) == 2
