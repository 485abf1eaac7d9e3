"""Reading the files of a run."""

import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from panet.config import load_config
from panet.prepare import prepare
from panet.utils.errors import UserError

Metrics = dict[int, dict[str, float]]
"""Metrics by iteration."""

_TIMESTAMP = re.compile(r"^\[(\d\d/\d\d \d\d:\d\d:\d\d)\]", re.MULTILINE)
_LAZY_SECTION = re.compile(r"^(train|model|dataloader):", re.MULTILINE)
"""Sections of detectron2's ``LazyConfig``; those of YAML configurations are in upper case."""
_VERSIONS = ("Python", "PyTorch", "torchvision", "detectron2", "numpy")


@dataclass(frozen=True)
class Run:
    """A finished or interrupted run.

    Attributes:
        folder: current path of its ``OUTPUT_DIR``.
        cfg: its configuration, with ``OUTPUT_DIR`` set to ``folder``.
        config_text: content of its config.yaml.
        metrics: content of its metrics.json, by ascending iteration; empty if there is none.
        facts: human-readable names and values: data, time, machine and versions.
    """

    folder: Path
    cfg: CfgNode
    config_text: str
    metrics: Metrics
    facts: dict[str, str]


def read_run(folder: Path, overrides: Sequence[str] = ()) -> Run:
    """Read the files of a run.

    Args:
        folder: the run's ``OUTPUT_DIR``.
        overrides: alternating keys and values that override its configuration.

    Raises:
        UserError: if the folder does not exist or is not of a run, if its configuration is a
            Python configuration, or if the configuration or an override is invalid.
    """
    advice = "give the OUTPUT_DIR of a run of panet train or panet demo"
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; {advice}.")
    config_file = folder / "config.yaml"
    if not config_file.is_file():
        raise UserError(f"{folder} is not the folder of a run: it has no config.yaml; {advice}.")
    config_text = config_file.read_text(encoding="utf-8", errors="replace")
    if _LAZY_SECTION.search(config_text):
        raise UserError(
            f"{folder} is the folder of a run with a Python configuration; reports need a YAML "
            "configuration."
        )
    # Files that are written when reading the data go to the current folder.
    options = [*overrides, "OUTPUT_DIR", str(folder.resolve())]
    cfg = prepare(load_config(str(config_file), options))
    cfg.freeze()
    metrics = read_metrics(folder / "metrics.json")
    facts = {**_training_facts(cfg, metrics), **_log_facts(folder / "log.txt")}
    return Run(folder, cfg, config_text, metrics, facts)


def read_metrics(file: Path) -> Metrics:
    """Read a run's metrics.json; return an empty dict if there is none."""
    metrics: Metrics = {}
    if not file.is_file():
        return metrics
    for line in file.read_text(errors="replace").splitlines():
        try:
            values: dict[str, Any] = json.loads(line)
            iteration = int(values.pop("iteration"))
        except (ValueError, KeyError, AttributeError):
            continue  # line truncated when the run was interrupted
        # If a resumed run repeated iterations, their last values count.
        metrics.setdefault(iteration, {}).update(values)
    return dict(sorted(metrics.items()))


def _training_facts(cfg: CfgNode, metrics: Metrics) -> dict[str, str]:
    facts = {
        "training data": ", ".join(cfg.DATASETS.TRAIN),
        "test data": ", ".join(cfg.DATASETS.TEST),
        "device": str(cfg.MODEL.DEVICE),
        "images per batch": str(cfg.SOLVER.IMS_PER_BATCH),
    }
    trained = [iteration for iteration, values in metrics.items() if "total_loss" in values]
    if trained:
        facts["iterations"] = f"{trained[-1] + 1:,} of {cfg.SOLVER.MAX_ITER:,}"
    seconds = [values["time"] for values in metrics.values() if "time" in values]
    if seconds:
        facts["time per iteration"] = f"{statistics.median(seconds):.2f} s (median)"
    return facts


def _log_facts(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    log = file.read_text(errors="replace")
    facts = {}
    if stamps := _TIMESTAMP.findall(log):
        facts["first and last line of the log"] = f"{stamps[0]} and {stamps[-1]}"
    for name, pattern in (
        ("training time", r"Total training time: (.+?) \("),
        ("peak GPU memory", r"max_mem: (\d+M)"),
        ("processes", r"World size: (\d+)"),
    ):
        if matches := re.findall(pattern, log):
            facts[name] = matches[-1]
    return {**facts, **_environment(log)}


def _environment(log: str) -> dict[str, str]:
    """Parse machine and versions from the table that detectron2 logs at the start of a run."""
    tables = re.findall(r"Environment info:\n-[- ]*\n(.*?)\n-[- ]*\n", log, re.DOTALL)
    if not tables:
        return {}
    rows = dict(re.findall(r"^(\S.*?) {2,}(.+)$", tables[-1], re.MULTILINE))
    # Cut off the paths and compilers that follow the versions.
    short = {name: re.split(r" [@(]", value)[0] for name, value in rows.items()}
    gpus = [value for name, value in short.items() if re.match(r"GPU [\d,]+$", name)]
    facts = {"platform": short.get("sys.platform", ""), "GPUs": ", ".join(gpus)}
    facts.update((name, short.get(name, "")) for name in _VERSIONS)
    return {name: value for name, value in facts.items() if value}
