"""Errors that users can mend are shown in one line."""

import errno
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm

from panet import load_config
from panet.compat.detectron2_launch import launch
from panet.prepare import prepare
from panet.utils.device import check_gpus
from panet.utils.errors import UserError, exit_on_user_error


def stderr_and_status(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> tuple[list[str], int]:
    with pytest.raises(SystemExit) as end, exit_on_user_error():
        raise error
    return capsys.readouterr().err.splitlines(), end.value.code


@pytest.mark.parametrize(
    ("error", "message", "status"),
    [
        (UserError("The file a is wrong."), "error: The file a is wrong.", 2),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/model.pth"),
            "error: There is no space left to write out/model.pth; free some space, then "
            "continue a training run with --resume.",
            2,
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/out"),
            "error: /out cannot be read or written: Permission denied.",
            2,
        ),
        (KeyboardInterrupt(), "error: Interrupted.", 130),
    ],
)
def test_one_line_and_a_status(
    error: BaseException, message: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stderr_and_status(error, capsys) == ([message], status)


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train_net.py", "--debug"])
    lines, status = stderr_and_status(UserError("wrong"), capsys)
    assert lines[0] == "Traceback (most recent call last):"
    assert (lines[-1], status) == ("error: wrong", 2)


def test_other_errors_pass() -> None:
    for error in (ValueError("a bug"), OSError(errno.EACCES, "denied")):
        with pytest.raises(type(error)), exit_on_user_error():
            raise error


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["MODEL.PAFPN.NROM", "GN"],
            "no configuration key MODEL.PAFPN.NROM; the closest is MODEL.PAFPN.NORM",
        ),
        (
            ["MODEL.MASKON", "True"],
            "no configuration key MODEL.MASKON; the closest is MODEL.MASK_ON",
        ),
        (
            ["SOLVER.MAX_ITER", "many"],
            "SOLVER.MAX_ITER is many, of type str; it must be of type int",
        ),
        (["SOLVER.MAX_ITER"], "has no value; give KEY VALUE pairs"),
    ],
)
def test_wrong_keys_and_values(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare(load_config("", overrides))


def test_wrong_files(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    with pytest.raises(UserError, match=r"no configuration file .*own.yaml"):
        prepare(load_config(str(path)))
    for content, message in (
        ("MODEL:\n  PAFPN:\n    NROM: GN\n", "no configuration key MODEL.PAFPN.NROM"),
        ("MODEL: [1\nSOLVER: 2\n", "own.yaml, line 2 is not valid YAML"),
        ("A: !!python/object/apply:os.mkdir [trace]\n", "own.yaml, line 1 is not valid YAML"),
        ("_BASE_: gone.yaml\n", r"The configuration file .*gone.yaml cannot be read"),
        ("SOLVER:\n  BASE_LR: [1]\n", "SOLVER.BASE_LR is .*, of type list; it must be .* float"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            prepare(load_config(str(path)))


def test_a_picture_is_no_configuration(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match=r"image.jpg is not a YAML configuration"):
        load_config(str(path))


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_gpus(2)
    with pytest.raises(UserError, match="--num-gpus is 3, but this machine has 2 GPUs"):
        check_gpus(3)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    check_gpus(3)  # processes on the CPU


def fail_in_one_process(how: str) -> None:
    with exit_on_user_error():
        if comm.get_rank() == 0:
            time.sleep(60)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "disk":
            raise OSError(errno.ENOSPC, "No space left on device", "out/model.pth")
        if how == "path":
            raise PermissionError(errno.EACCES, "Permission denied", "/out")
        raise UserError("The image a.jpg is wrong.")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "message", "status"),
    [
        ("error", "error: The image a.jpg is wrong.", 2),
        ("disk", "error: There is no space left to write out/model.pth; free some", 2),
        ("path", "error: /out cannot be read or written: Permission denied.", 2),
        ("kill", "error: Process 1 was killed by SIGKILL, perhaps because memory ran out.", 137),
    ],
)
def test_an_error_of_another_process_is_shown_once(
    how: str, message: str, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end, exit_on_user_error():
        launch(fail_in_one_process, 2, dist_url="auto", args=(how,))
    assert end.value.code == status
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert lines[0].startswith(message)
