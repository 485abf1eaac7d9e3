"""mkdocs hooks: pages generated from the code, and formulas as MathML, which needs no script."""

import html
import re
import sys
from pathlib import Path
from typing import Any

import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    sys.path.insert(0, str(ROOT))
    source = (ROOT / "panet" / "config.py").read_text()
    files.append(File.generated(config, "configuration.md", content=configuration_page(source)))
    files.append(File.generated(config, "commands.md", content=commands_page()))
    return files


def on_page_content(html_text: str, **_: Any) -> str:
    """Convert the formulas of ``pymdownx.arithmatex`` to MathML."""
    pattern = r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>'
    return re.sub(pattern, _to_mathml, html_text, flags=re.DOTALL)


def _to_mathml(match: "re.Match[str]") -> str:
    display = "block" if match[1] == "div" else "inline"
    return latex2mathml.converter.convert(html.unescape(match[2]), display=display)


def configuration_page(source: str) -> str:
    """The keys of ``panet/config.py`` with their defaults and comments, a section per CfgNode."""
    lines = [
        "# Configuration",
        "",
        "The keys that this project adds to "
        "[detectron2's](https://detectron2.readthedocs.io/en/latest/modules/config.html), in the "
        "order of `panet/config.py`, from which this page is generated.",
    ]
    comment: list[str] = []
    for line in source.splitlines():
        text = line.strip()
        assignment = re.fullmatch(r"cfg\.([\w.\[\]]+) = (.*)", text)
        if text.startswith("# "):
            comment.append(text[2:])
        elif assignment:
            key = assignment[1].replace("[split]", ".*")
            key, value = key.replace("OWN.*", "OWN.{TRAIN,VAL,TEST}"), assignment[2]
            description = html.escape(" ".join(comment), quote=False)
            if value == "CfgNode()":
                lines += ["", f"## {key}", "", description]
            else:
                value = re.sub(r'f"own_\{.*\}"', '"own_train", "own_val", "own_test"', value)
                lines += ["", f"`{key}`{{ #{key} }} = `{value}`", "", f":   {description}"]
            comment = []
        elif not text.startswith("#"):
            comment = []
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """The help of ``panet`` and of every command."""
    import panet_cli

    parser = panet_cli.build_parser()
    (action,) = (each for each in parser._actions if hasattr(each, "add_parser"))
    lines = ["# Commands", "", "`panet --print-completion bash` prints a completion script."]
    for name, command in {"": parser, **action.choices}.items():
        lines += ["", f"## panet {name}".rstrip(), "", "```text", command.format_help(), "```"]
    return "\n".join(lines) + "\n"
