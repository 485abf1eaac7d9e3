"""What the documentation tells people to run, and what it says that programs print."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
from detectron2.config import CfgNode
from notebook import run_notebook
from paths import ROOT
from small_models import write_model

import panet_cli
from panet.config import load_config
from panet.config_files import find_config_file
from panet.data.shapes import draw_image
from panet.lazy_config import load_lazy_config

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CLASSES = ("disk", "square", "triangle", "star")


def commands() -> Iterator[tuple[Path, list[str]]]:
    """The shell commands of ``panet`` and ``train_net.py``, and the pages that have them."""
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        program = r"(?:\.venv/bin/)?((?:panet|python train_net\.py) .*)"
        indented = re.findall(rf"^ {{4,}}{program}$", text, re.MULTILINE)
        fenced = [
            line
            for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
            for line in re.findall(rf"^{program}$", block, re.MULTILINE)
        ]
        for line in (*indented, *fenced):
            words = shlex.split(line, comments=True)
            yield page, words[1:] if words[0] == "panet" else ["train", *words[2:]]


COMMANDS = [
    pytest.param(words, id=f"{page.stem}: {' '.join(words)[:60]}") for page, words in commands()
]


def without_eval_only(words: list[str]) -> list[str]:
    if words[0] == "train" and "--eval-only" in words:
        words = ["eval", *(word for word in words[1:] if word != "--eval-only")]
    return words


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_have_valid_arguments_and_keys(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(Path, "is_dir", lambda path: True)  # folders of examples
    monkeypatch.setattr(
        Path,
        "is_file",
        lambda path, real=Path.is_file: real(path) or path.suffix in {".json", ".pth", ""},
    )
    args = panet_cli.build_parser().parse_args(without_eval_only(words))
    config_file, overrides = getattr(args, "config_file", None), getattr(args, "opts", [])
    if config_file and not config_file.startswith("output/"):
        file = find_config_file(config_file)
        load = load_lazy_config if file.endswith(".py") else load_config
        load(file, overrides)
    elif overrides:
        load_config("", overrides)


def snippets() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for source in re.findall(
            r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL
        ):
            yield page, source


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(source, id=f"{page.stem}-{index}")
        for index, (page, source) in enumerate(snippets())
    ],
)
def test_python_snippets_run(
    source: str, tiny_cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a small model where the demo leaves its own."""
    monkeypatch.chdir(tmp_path)
    model = write_model(
        load_config(find_config_file("quick/panet_R18_shapes.yaml"), ["MODEL.DEVICE", "cpu"]),
        tmp_path / "model",
        CLASSES,
    )
    Path("output/demo").mkdir(parents=True)
    shutil.copy(model.weights, "output/demo/model_final.pth")
    image = Path("datasets/shapes_v1/val/000001.jpg")
    image.parent.mkdir(parents=True)
    cv2.imwrite(str(image), draw_image(9, 0)[0])
    exec(compile(source, "snippet", "exec"), {"__name__": "__main__"})


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ITERATIONS", "3")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    program = bin_folder / "panet"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -W ignore -m panet_cli "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    printed = run_notebook(ROOT / "docs" / "custom_dataset.ipynb", tmp_path, environment)
    assert any("212 objects of 2 classes" in text for text in printed)
    assert (tmp_path / "output" / "own" / "report.html").exists()
    assert (tmp_path / "found.png").exists()


def test_messages_of_the_troubleshooting_page_exist() -> None:
    code = "".join(
        re.sub(r'"\s*\n\s*f?"', "", file.read_text()) for file in (ROOT / "panet").rglob("*.py")
    )
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    messages = re.findall(r"\*\*(.+?)\*\*", page)
    assert len(messages) > 20
    for message in messages:
        for part in message.split(" ... "):
            assert part in code, part


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    site = tmp_path / "site"
    configuration = (site / "configuration" / "index.html").read_text()
    for key in ("MODEL.PAFPN.NORM", "TEST.AUG.WINDOW", "DATASETS.OWN.{TRAIN,VAL,TEST}.JSON"):
        assert key in configuration
    assert "panet convert-weights" in (site / "commands" / "index.html").read_text()
    assert "<math" in (site / "network" / "index.html").read_text()
    assert json.loads((site / "search" / "search_index.json").read_text())["docs"]
