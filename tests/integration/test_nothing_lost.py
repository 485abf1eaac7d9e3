"""Tests that interrupted and failed trainings can be resumed."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import HookBase

from panet.compat.detectron2_launch import launch
from panet.engine import PANetTrainer
from panet.utils.errors import UserError


class At(HookBase):
    """Calls a function after an iteration."""

    def __init__(self, iteration: int, action: object) -> None:
        self.iteration = iteration
        self.action = action

    def after_step(self) -> None:
        if self.trainer.iter == self.iteration:
            self.action()


@pytest.fixture
def cfg(tiny_cfg: CfgNode) -> CfgNode:
    tiny_cfg.DATASETS.TEST = ()
    tiny_cfg.SOLVER.MAX_ITER = 5
    return tiny_cfg


def state(trainer: PANetTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def resumed(cfg: CfgNode) -> PANetTrainer:
    trainer = PANetTrainer(cfg)
    trainer.resume_or_load(resume=True)
    return trainer


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_signals_save_and_a_resumed_run_equals_an_undisturbed_one(
    cfg: CfgNode, tmp_path: Path, number: signal.Signals, error: type[BaseException]
) -> None:
    undisturbed = PANetTrainer(cfg)
    undisturbed.train()
    cfg.OUTPUT_DIR = str(tmp_path / "interrupted")
    torch.manual_seed(0)  # the same state as before the first training
    trainer = PANetTrainer(cfg)
    before = signal.getsignal(number)
    trainer.register_hooks([At(1, lambda: os.kill(os.getpid(), number))])
    with pytest.raises(error) as end:
        trainer.train()
    if error is SystemExit:
        assert end.value.code == 143
    assert signal.getsignal(number) is before
    trainer = resumed(cfg)
    assert trainer.start_iter in (2, 3)  # the signal came during iteration 1, or right after it
    trainer.train()
    expected = state(undisturbed)
    assert all(torch.equal(value, expected[name]) for name, value in state(trainer).items())


def test_a_signal_in_the_last_iteration_stops_after_it(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_step = PANetTrainer.before_step

    def interrupt(self: PANetTrainer) -> None:
        before_step(self)
        if self.iter + 1 == self.max_iter:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(PANetTrainer, "before_step", interrupt)
    with pytest.raises(SystemExit):
        PANetTrainer(cfg).train()
    assert sorted(path.name for path in Path(cfg.OUTPUT_DIR).glob("*.pth")) == ["model_final.pth"]
    assert resumed(cfg).start_iter == cfg.SOLVER.MAX_ITER


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Make SIGINT raise KeyboardInterrupt, also if the tests run in the background."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.usefixtures("interruptible")
def test_a_signal_in_the_last_evaluation_stops_it(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object) -> None:
        signal.raise_signal(signal.SIGINT)
        pytest.fail("goes on")

    monkeypatch.setattr(PANetTrainer, "test", interrupt)
    with pytest.raises(KeyboardInterrupt):
        PANetTrainer(cfg).train()
    trainer = resumed(cfg)
    assert trainer.start_iter == cfg.SOLVER.MAX_ITER
    with pytest.raises(KeyboardInterrupt):
        trainer.train()


def test_signals_end_forks_as_ever(cfg: CfgNode) -> None:
    context = multiprocessing.get_context("fork")
    started = context.Event()

    def wait() -> None:
        started.set()
        time.sleep(60)

    fork = context.Process(target=wait)

    def end_a_fork() -> None:
        fork.start()
        started.wait()  # Python loses signals that arrive during a fork
        fork.terminate()
        fork.join(10)

    trainer = PANetTrainer(cfg)
    trainer.register_hooks([At(1, end_a_fork)])
    trainer.train()
    assert fork.exitcode == -signal.SIGTERM


def interrupt_one_process(cfg: CfgNode, json_file: str, image_root: str) -> None:
    register_coco_instances(cfg.DATASETS.TRAIN[0], {}, json_file, image_root)
    trainer = PANetTrainer(cfg)
    rank = torch.distributed.get_rank()
    if rank == 1:
        trainer.register_hooks([At(1, lambda: os.kill(os.getpid(), signal.SIGTERM))])
    try:
        trainer.train()
    except SystemExit as end:
        Path(cfg.OUTPUT_DIR, f"status_{rank}").write_text(str(end.code))


def test_a_signal_to_one_process_stops_all_and_another_number_of_processes_is_said(
    cfg: CfgNode, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    arguments = (cfg, metadata.json_file, metadata.image_root)
    launch(interrupt_one_process, 2, dist_url="auto", args=arguments)
    statuses = [Path(cfg.OUTPUT_DIR, f"status_{rank}").read_text() for rank in (0, 1)]
    assert statuses == ["143", "143"]
    assert resumed(cfg).start_iter in (3, 4)  # one iteration later than with a single process
    assert "had 2 process(es) and resumes with 1" in caplog.text


def saved_twice(cfg: CfgNode) -> tuple[Path, Path]:
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    cfg.SOLVER.MAX_ITER = 4
    PANetTrainer(cfg).train()
    folder = Path(cfg.OUTPUT_DIR)
    (folder / "model_final.pth").unlink()
    (folder / "last_checkpoint").write_text("model_0000003.pth")
    return folder / "model_0000001.pth", folder / "model_0000003.pth"


def test_a_truncated_checkpoint_is_named_and_the_one_before_it_used(
    cfg: CfgNode, caplog: pytest.LogCaptureFixture
) -> None:
    first, last = saved_twice(cfg)
    last.write_bytes(last.read_bytes()[:-1000])
    assert resumed(cfg).start_iter == 2
    assert "model_0000003.pth is damaged" in caplog.text
    first.write_bytes(b"")
    with pytest.raises(UserError, match=r"model_0000003.pth is damaged.*model_0000001.pth is dam"):
        resumed(cfg)


def test_a_checkpoint_that_was_removed_is_named_and_the_one_before_it_used(
    cfg: CfgNode, caplog: pytest.LogCaptureFixture
) -> None:
    first, last = saved_twice(cfg)
    last.unlink()
    assert resumed(cfg).start_iter == 2
    assert "There is no checkpoint" in caplog.text
    first.unlink()
    with pytest.raises(UserError, match=r"model_0000003.pth. To start .*, remove .*last_check"):
        resumed(cfg)
    (first.parent / "last_checkpoint").unlink()
    assert resumed(cfg).start_iter == 0


def test_a_foreign_checkpoint_is_named_and_the_one_before_it_used(
    cfg: CfgNode, caplog: pytest.LogCaptureFixture
) -> None:
    _, last = saved_twice(cfg)
    torch.save({"model": {"other.weight": torch.zeros(3)}, "iteration": 3}, last)
    assert resumed(cfg).start_iter == 2
    assert "model_0000003.pth is not a checkpoint of this model" in caplog.text
    cfg.MODEL.WEIGHTS = str(last)
    with pytest.raises(UserError, match=r"model_0000003.pth has no weights of this model"):
        PANetTrainer(cfg).resume_or_load(resume=False)


def test_a_loss_that_is_not_a_number_keeps_the_names_of_its_images(cfg: CfgNode) -> None:
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    trainer = PANetTrainer(cfg)

    def spoil() -> None:
        trainer.model.roi_heads.box_predictor.cls_score.bias.data.fill_(float("nan"))

    trainer.register_hooks([At(2, spoil)])
    with pytest.raises(UserError, match=r"infinite or NaN at iteration 3.*non_finite_batch_0.json"):
        trainer.train()
    kept = json.loads(Path(cfg.OUTPUT_DIR, "non_finite_batch_0.json").read_text())
    assert kept["losses"]["loss_cls"] == "nan"
    assert len(kept["file_names"]) == cfg.SOLVER.IMS_PER_BATCH
    assert all(Path(name).is_file() for name in kept["file_names"])
    assert resumed(cfg).start_iter == 2


def test_a_full_disk(cfg: CfgNode) -> None:
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    trainer = PANetTrainer(cfg)
    full = Path(cfg.OUTPUT_DIR, "model_0000003.pth.unfinished")
    trainer.register_hooks([At(2, lambda: full.symlink_to("/dev/full"))])
    with pytest.raises(OSError, match=r"No space left on device: '.*model_0000003.pth'"):
        trainer.train()
    assert resumed(cfg).start_iter == 2


def test_a_dead_data_worker(cfg: CfgNode) -> None:
    cfg.DATALOADER.NUM_WORKERS = 1
    cfg.SOLVER.MAX_ITER = 50
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    trainer = PANetTrainer(cfg)

    def kill_worker() -> None:
        (child,) = (
            int(pid)
            for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        os.kill(child, signal.SIGKILL)
        time.sleep(0.5)

    trainer.register_hooks([At(2, kill_worker)])
    with pytest.raises(UserError, match=r"A data loading process died.*NUM_WORKERS"):
        trainer.train()
    assert resumed(cfg).start_iter >= 2
