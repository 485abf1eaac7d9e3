"""The package as such."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from paths import ROOT


def test_without_detectron2_one_sentence_says_what_to_do() -> None:
    code = "import sys; sys.modules['detectron2'] = None; import panet"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert "panet needs detectron2" in last
    assert "panet install-detectron2" in last


def test_does_not_need_detectron2s_compiled_extension() -> None:
    code = (
        "import sys; sys.modules['detectron2._C'] = None;"
        "import panet, panet.engine, panet.model_zoo, panet.evaluation"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def imported_names(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (getattr(node, "module", None) or "").split(".")
            for alias in node.names:
                yield from alias.name.split(".")


def test_private_names_are_imported_in_compat_alone() -> None:
    """Of other packages and of other files; ruff's SLF001 tells of those that are not imported."""
    patterns = ("*.py", "panet/**/*.py", "projects/**/*.py", "benchmarks/**/*.py")
    files = {pattern: list(ROOT.glob(pattern)) for pattern in patterns}
    assert all(files.values())
    found = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in chain.from_iterable(files.values())
        if ROOT / "panet" / "compat" not in file.parents
        for name in imported_names(file)
        if name.startswith("_") and not name.startswith("__")
    }
    assert not found
