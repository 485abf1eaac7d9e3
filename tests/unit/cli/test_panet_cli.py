"""The command line, up to the point where a command runs."""

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import panet_cli
from panet.checkpoint.convert.systems import SOURCES


def commands() -> dict[str, argparse.ArgumentParser]:
    parser = panet_cli.build_parser()
    (found,) = (
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    return dict(found.choices)


@pytest.mark.parametrize("command", commands())
def test_every_command_has_its_module_help_and_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = commands()[command].get_default("module")
    if module is not None:  # install-detectron2 works without the package
        assert callable(importlib.import_module(f"panet.cli.{module}").main)
    with pytest.raises(SystemExit, match="0"):
        panet_cli.main([command, "--help"])
    assert f"example:\n  panet {command}" in capsys.readouterr().out


@pytest.mark.parametrize("command", commands())
def test_examples_are_valid(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("images", "annotations", "output/run"):
        Path(folder).mkdir(parents=True)
    for file in ("train.json", "val.json", "output/model_final.pth"):
        Path(file).touch()
    Path("faster_rcnn_r50_pafpn_1x_coco.pth").touch()
    epilog = commands()[command].epilog or ""
    for line in epilog.splitlines()[1:]:
        program, *arguments = line.split()
        assert program == "panet"
        panet_cli.build_parser().parse_args(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "required: COMMAND"),
        ("trian", "invalid choice: 'trian'"),
        ("train", "required: --config-file"),
        ("train --config-file a.yaml --num-gpus two", "'two' is not a whole number of at least 1"),
        ("predict --config-file a.yaml --output out", "required: INPUT"),
        ("check --json /gone.json", "argument --json: there is no file /gone.json"),
        ("convert-data --from voc /gone out.json", "argument IN: there is no folder /gone"),
        ("convert-weights --from caffe2 setup.py out.pth", "invalid choice: 'caffe2'"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        panet_cli.main(arguments.split())
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_overrides_follow_the_options() -> None:
    line = "proposals --config-file a.yaml --dataset x --dataset y MODEL.WEIGHTS b.pth"
    args = panet_cli.build_parser().parse_args(line.split())
    assert (args.config_file, args.dataset) == ("a.yaml", ["x", "y"])
    assert args.opts == ["MODEL.WEIGHTS", "b.pth"]
    line = "predict a.jpg b.jpg --config-file c.yaml --output out --opts SEED 3"
    args = panet_cli.build_parser().parse_args(line.split())
    assert (args.inputs, args.opts) == (["a.jpg", "b.jpg"], ["SEED", "3"])


def test_systems_are_those_of_the_converter() -> None:
    parser = commands()["convert-weights"]
    (source,) = (action for action in parser._actions if action.dest == "source")
    assert set(source.choices) == set(SOURCES)


def test_arguments_are_checked_without_pytorch() -> None:
    check = (
        "import sys, panet_cli\n"
        "try: panet_cli.main(['predict', '--batch-size', '0'])\n"
        "except SystemExit: print('torch' in sys.modules, 'panet' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert run.stdout == "False False\n"


def test_completion_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        panet_cli.main(["--print-completion", "bash"])
    assert "convert-weights" in capsys.readouterr().out
