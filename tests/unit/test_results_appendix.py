"""The tables of the ablations in docs/."""

import shutil
import subprocess
import sys
from pathlib import Path

from paths import ROOT


def write_appendix(docs: Path, *arguments: str) -> int:
    command = [sys.executable, docs / "write_appendix.py", *arguments]
    return subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode


def test_tables_are_up_to_date() -> None:
    assert write_appendix(ROOT / "docs", "--check") == 0


def test_check_finds_a_changed_figure_and_a_run_restores_it(tmp_path: Path) -> None:
    for pattern in ("write_appendix.py", "results*.md", "*.csv"):
        for path in (ROOT / "docs").glob(pattern):
            shutil.copy(path, tmp_path)
    page = tmp_path / "results_appendix.md"
    text = page.read_text()
    page.write_text(text.replace("58.5 ± 0.4", "58.6 ± 0.4"))
    assert page.read_text() != text
    assert write_appendix(tmp_path, "--check") == 1
    assert write_appendix(tmp_path) == 0
    assert page.read_text() == text
