"""Hooks beside detectron2's."""

from pathlib import Path

import torch
from detectron2.config import CfgNode
from torch import nn

from panet.engine import PANetTrainer
from panet.engine.hooks import EarlyLook


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
