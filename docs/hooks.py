"""mkdocs hooks: pages generated from the code, and formulas as MathML, which needs no script."""

import html
import re
import sys
import warnings
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
    files.append(File.generated(config, "model_zoo.md", content=model_zoo_page()))
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
                value = "{}" if value.startswith("CfgNode(") else value
                anchor = re.sub(r"[^\w.]", "", key)
                lines += ["", f"`{key}`{{ #{anchor} }} = `{value}`", "", f":   {description}"]
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


def model_zoo_page() -> str:
    """The models with published weights: a table, and a card each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that are imported
        from panet.checkpoint import PUBLISHED

    lines = [
        "# Model zoo",
        "",
        "Weights that others trained on COCO and published. They are downloaded once, checked, "
        "converted and cached (`$FVCORE_CACHE`, by default `~/.torch/iopath_cache`). AP is that "
        "on COCO val2017 **as reported by their authors**; it has not been measured here.",
        "",
        "```bash",
        "panet zoo",
        "panet predict photos/ --model official/e2e_panet_R-50-FPN_2x_mask.yaml --output found",
        "panet eval --config-file official/e2e_panet_R-50-FPN_2x_mask.yaml "
        "MODEL.WEIGHTS panet://official/e2e_panet_R-50-FPN_2x_mask.pth",
        "```",
        "",
        "In Python, `Predictor.from_name(NAME)`, `panet.model_zoo.get(NAME, trained=True)` and "
        "`get_config(NAME, trained=True)` take the same names.",
        "",
        "| name | project | box AP | mask AP | MB |",
        "|---|---|---|---|---|",
    ]
    for model in PUBLISHED.values():
        lines.append(
            f"| `{model.config}` | {model.source} | {model.box_ap} | {model.mask_ap or '-'} | "
            f"{model.megabytes} |"
        )
    lines += [
        "",
        "## Without network",
        "",
        "Place the published file in the cache, as `panet/published/` and the name with `.pth`, or "
        "set `PANET_MODEL_ZOO` to a folder or URL that has it under that name, e.g. "
        "`official/e2e_panet_R-50-FPN_2x_mask.pth`.",
        "",
        "## Cards",
    ]
    for model in PUBLISHED.values():
        ap = f"box AP {model.box_ap}" + (f", mask AP {model.mask_ap}" if model.mask_ap else "")
        check = (
            f"SHA-256 begins with `{model.hash_prefix}`"
            if model.hash_prefix
            else "names and shapes of all tensors; the SHA-256 of the first download is kept"
        )
        lines += [
            "",
            f"### {model.config}",
            "",
            f"- weights: `{model.weights}`, from <{model.url}>",
            f"- trained by: [{model.source}]({model.page}), on COCO train2017, 80 classes",
            f"- reported: {ap} on COCO val2017",
            f"- licence of the project: {model.licence}",
            f"- check: {check}",
            f"- size: {model.megabytes} MB converted",
        ]
    return "\n".join(lines) + "\n"
