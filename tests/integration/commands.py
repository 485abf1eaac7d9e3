"""Running a command without starting a Python for it, which takes seconds."""

import sys
from typing import NamedTuple

import pytest

import panet_cli

PANET = (sys.executable, "-W", "ignore", "-m", "panet_cli")
"""The command in a process of its own."""


class Run(NamedTuple):
    """How a command ended and what it printed."""

    status: int
    stdout: str
    stderr: str


def run_command(
    arguments: tuple[object, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run ``panet`` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["panet", *map(str, arguments)])
    capsys.readouterr()
    try:
        status = panet_cli.main()
    except SystemExit as end:
        status = int(end.code or 0)
    return Run(status, *capsys.readouterr())
