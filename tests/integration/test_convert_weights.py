"""Tests of panet convert-weights, which extracts weights from checkpoints."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import Run, run_command
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from panet.checkpoint.weights import load_safetensors

Convert = Callable[..., Run]


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Convert:
    return lambda *arguments: run_command(("convert-weights", *arguments), monkeypatch, capsys)


def test_only_weights_and_classes_are_kept(
    convert: Convert, tiny_cfg: CfgNode, tmp_path: Path
) -> None:
    state = build_model(tiny_cfg).state_dict()
    classes = ["disk", "square", "triangle", "star"]
    checkpoint = tmp_path / "model_0000003.pth"
    optimizer = {"state": {0: torch.ones(3)}}
    torch.save(
        {"model": state, "optimizer": optimizer, "iteration": 3, "classes": classes}, checkpoint
    )
    first, again = tmp_path / "model.safetensors", tmp_path / "again.pth"
    run = convert(checkpoint, first)
    assert (run.status, run.stdout) == (0, f"{len(state)} tensors written to {first}.\n")
    assert convert(first, again).status == 0
    content = torch.load(again, weights_only=True)
    for written in (load_safetensors(first), content):
        assert set(written) == {"model", "classes"}
        assert written["classes"] == classes
        assert set(written["model"]) == set(state)
        for name, tensor in written["model"].items():
            assert torch.equal(tensor, state[name]), name


def test_wrong_files_end_in_one_line(convert: Convert, tmp_path: Path) -> None:
    file = tmp_path / "broken.pth"
    file.write_text("no checkpoint")
    for arguments, message in (
        ((file, tmp_path / "out.onnx"), "must end in one of .pth, .safetensors"),
        ((file, tmp_path / "out.pth"), str(file)),
        ((tmp_path / "gone.pth", tmp_path / "out.pth"), "there is no file"),
    ):
        run = convert(*arguments)
        assert run.status == 2
        assert message in run.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == [file]
