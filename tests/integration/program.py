"""Running a program without starting a Python for it, which takes seconds."""

import runpy
import sys
from pathlib import Path
from typing import NamedTuple

import pytest


class Run(NamedTuple):
    """How a program ended and what it printed."""

    status: int
    stdout: str
    stderr: str


def run_program(
    path: Path,
    arguments: tuple[object, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run a script as ``python path arguments`` would."""
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
    status = 0
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        status = int(end.code or 0)
    return Run(status, *capsys.readouterr())
