"""What an installation without a clone consists of."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from paths import CONFIGS, ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # A build leaves files beside the sources, which would be part of the next one.
    ignored = shutil.ignore_patterns(
        ".*", "build", "datasets", "output", "__pycache__", "*.egg-info"
    )
    shutil.copytree(ROOT, folder / "source", ignore=ignored, symlinks=True)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder]
    run = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, folder / "source"],
        env={**os.environ, "SETUPTOOLS_SCM_PRETEND_VERSION": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    (file,) = folder.glob("panet-*.whl")
    return file


def test_has_the_command_types_and_configurations(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"panet_cli.py", "panet/py.typed", "panet/reporting/page.html"} <= names
    configurations = {
        f"panet/configs/{file.relative_to(CONFIGS).as_posix()}"
        for pattern in ("*.yaml", "*.py")
        for file in CONFIGS.rglob(pattern)
    }
    assert configurations <= names
    assert not any(name.startswith(("tests/", "benchmarks/", "docs/")) for name in names)


def test_runs_without_a_clone(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    check = "from panet import model_zoo; print(len(model_zoo.list_configs()))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    for command, expected in (
        (["-m", "panet_cli", "train", "--help"], "example:"),
        (["-W", "ignore", "-c", f"import panet; print(panet.__file__); {check}"], str(tmp_path)),
    ):
        run = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert expected in run.stdout
