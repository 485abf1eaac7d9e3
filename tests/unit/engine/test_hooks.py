"""The progress bar, and the demo's early look."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger
from torch import nn

from panet.cli.demo import EarlyLook
from panet.engine import PANetTrainer
from panet.engine.hooks import ProgressBar, progress_bars


def train(cfg: CfgNode, *hooks: EarlyLook, resume: bool = False) -> PANetTrainer:
    torch.manual_seed(0)
    trainer = PANetTrainer(cfg)
    trainer.register_hooks(list(hooks))
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def test_an_early_look_comes_once_and_leaves_the_training_as_it_was(
    tiny_cfg: CfgNode, tmp_path: Path
) -> None:
    tiny_cfg.DATASETS.TEST = ()
    tiny_cfg.SOLVER.MAX_ITER = 3
    undisturbed = train(tiny_cfg)
    tiny_cfg.OUTPUT_DIR = str(tmp_path / "looked_at")
    seen: list[tuple[int, bool, bool]] = []

    def show(model: nn.Module, iterations: int) -> None:
        model([{"image": torch.zeros(3, 96, 96)}])
        seen.append((iterations, model.training, torch.is_grad_enabled()))

    trainer = train(tiny_cfg, EarlyLook(0.0, show))
    assert seen == [(1, False, False)]
    assert trainer.model.training
    expected = undisturbed.model.state_dict()
    assert all(torch.equal(v, expected[name]) for name, v in trainer.model.state_dict().items())

    # The checkpoint is one to go on from, where the look is not repeated.
    Path(tiny_cfg.OUTPUT_DIR, "last_checkpoint").write_text("model_0000000.pth")
    resumed = train(tiny_cfg, EarlyLook(0.0, show), resume=True)
    assert resumed.start_iter == 1
    assert len(seen) == 1
    assert all(torch.equal(v, expected[name]) for name, v in resumed.model.state_dict().items())


def test_a_training_that_is_over_sooner_has_no_early_look(tiny_cfg: CfgNode) -> None:
    tiny_cfg.DATASETS.TEST = ()
    tiny_cfg.SOLVER.MAX_ITER = 1
    seen: list[int] = []
    train(tiny_cfg, EarlyLook(600.0, lambda _model, iterations: seen.append(iterations)))
    assert seen == []
    assert not Path(tiny_cfg.OUTPUT_DIR, "model_0000000.pth").exists()


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_replaces_the_metric_lines(
    is_terminal: bool,
    tiny_cfg: CfgNode,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny_cfg.DATASETS.TEST = ()
    logger = setup_logger()
    trainer = PANetTrainer(tiny_cfg)
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal, raising=False)
    trainer.register_hooks([ProgressBar(period=1, seconds=0.0)])
    trainer.train()
    out, err = capsys.readouterr()
    if is_terminal:
        assert re.search(r"training 100%\|.*\| 4/4 \[.*, loss=\d+\.\d\d\]", err)
    else:
        lines = [line for line in err.splitlines() if line.startswith("training")]
        assert len(lines) == 4
        assert re.fullmatch(r"training   4/4, loss \d+\.\d\d, 00:00 left", lines[-1])
    assert not any(handler.filters for handler in logger.handlers)
    assert "loss_rpn_cls" not in out


def test_progress_bar_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal in (False, True):
        monkeypatch.setattr("sys.stderr.isatty", lambda answer=is_terminal: answer, raising=False)
        assert len(progress_bars()) == is_terminal
