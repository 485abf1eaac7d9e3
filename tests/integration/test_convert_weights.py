"""Tests of panet convert-weights, which extracts weights from checkpoints."""

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from commands import Run, run_command
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from panet.checkpoint.convert.converter import Conversion
from panet.checkpoint.weights import load_safetensors
from panet.cli import convert_weights
from panet.config_files import find_config_file

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


def test_the_configuration_of_a_conversion(convert: Convert, tmp_path: Path) -> None:
    file, output, name = tmp_path / "in.pth", tmp_path / "out.pth", "panet_R50_2x.yaml"
    torch.save({}, file)
    converted = Conversion({}, [], "panet.yaml", [])
    with mock.patch.object(convert_weights, "convert_file", return_value=converted) as call:
        run = convert("--from", "mmdet", "--config-file", name, file, output, "--opts", "A", "1")
    assert run.status == 0, run.stderr
    assert call.call_args.args[2:] == (find_config_file(name), ["A", "1"])
    output.unlink()
    run = convert("--from", "mmdet", "--config-file", "gone.yaml", file, output)
    assert run.status == 2
    assert "There is no configuration file gone.yaml" in run.stderr.splitlines()[-1]
    for options in (("--config-file", name), ("--opts", "MODEL.DEVICE", "cpu")):
        run = convert(file, output, *options)
        assert run.status == 2
        assert "give --from too" in run.stderr.splitlines()[-1]
    assert not output.exists()
