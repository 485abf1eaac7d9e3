"""Tests of panet report."""

from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Run, run_command
from paths import CONFIGS

from panet import load_config
from panet.prepare import prepare

Report = Callable[..., Run]


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Report:
    """Run the command."""

    def run(*arguments: object) -> Run:
        return run_command(("report", *arguments), monkeypatch, capsys)

    return run


def test_flags_and_overrides(report: Report, tmp_path: Path) -> None:
    cfg = prepare(load_config(str(CONFIGS / "quick" / "panet_R18_shapes.yaml")))
    (tmp_path / "config.yaml").write_text(cfg.dump())
    run = report(tmp_path)
    assert (run.status, run.stdout) == (0, f"{tmp_path / 'report.html'}\n")
    assert "shapes_val" in (tmp_path / "report.html").read_text()
    page = tmp_path / "elsewhere" / "page.html"
    run = report(
        tmp_path, "--output", page, "--iou", "0.3", "--opts", "DATASETS.TEST", "('other_val',)"
    )
    assert (run.status, run.stdout) == (0, f"{page}\n")
    assert "other_val" in page.read_text()


def test_wrong_arguments_end_in_one_line(report: Report, tmp_path: Path) -> None:
    for folder, message in ((tmp_path / "gone", "There is no folder"), (tmp_path, "config.yaml")):
        run = report(folder)
        assert run.status == 2
        assert message in run.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())
