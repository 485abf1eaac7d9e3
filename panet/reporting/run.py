"""What a run leaves in its folder."""

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
"""The metrics that were written at an iteration."""

_TIMESTAMP = re.compile(r"^\[(\d\d/\d\d \d\d:\d\d:\d\d)\]", re.MULTILINE)
_VERSIONS = ("Python", "PyTorch", "torchvision", "detectron2", "numpy")


@dataclass(frozen=True)
class Run:
    """A finished or interrupted run.

    Attributes:
        folder: its ``OUTPUT_DIR``, wherever that is now.
        cfg: its configuration, with ``OUTPUT_DIR`` set to the folder.
        config_text: the same as the run wrote it.
        metrics: its metrics.json, in the order of the iterations; empty if there is none.
        facts: names and values for people, what its files tell of time, machine and versions.
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
        overrides: keys and values in turn, which replace those of its configuration.

    Raises:
        UserError: if there is no such folder, none that a run wrote, or its configuration or an
            override is wrong.
    """
    advice = "give the OUTPUT_DIR of a run of train_net.py or of make demo"
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; {advice}.")
    config_file = folder / "config.yaml"
    if not config_file.is_file():
        raise UserError(f"{folder} is not the folder of a run, it has no config.yaml; {advice}.")
    # What reading the data leaves goes there too, not where the folder once was.
    options = [*overrides, "OUTPUT_DIR", str(folder.resolve())]
    cfg = prepare(load_config(str(config_file), options))
    cfg.freeze()
    metrics = read_metrics(folder / "metrics.json")
    facts = {**_training_facts(cfg, metrics), **_log_facts(folder / "log.txt")}
    return Run(folder, cfg, config_file.read_text(), metrics, facts)


def read_metrics(file: Path) -> Metrics:
    """The content of a run's metrics.json; empty if there is none."""
    metrics: Metrics = {}
    if not file.is_file():
        return metrics
    for line in file.read_text(errors="replace").splitlines():
        try:
            values: dict[str, Any] = json.loads(line)
            iteration = int(values.pop("iteration"))
        except (ValueError, KeyError, AttributeError):
            continue  # cut short when the run was ended
        # What a resumed run repeated counts as it was the last time.
        metrics.setdefault(iteration, {}).update(values)
    return dict(sorted(metrics.items()))


def _training_facts(cfg: CfgNode, metrics: Metrics) -> dict[str, str]:
    facts = {
        "training data": ", ".join(cfg.DATASETS.TRAIN),
        "test data": ", ".join(cfg.DATASETS.TEST),
        "device": str(cfg.MODEL.DEVICE),
        "images a batch": str(cfg.SOLVER.IMS_PER_BATCH),
    }
    trained = [iteration for iteration, values in metrics.items() if "total_loss" in values]
    if trained:
        facts["iterations"] = f"{trained[-1] + 1:,} of {cfg.SOLVER.MAX_ITER:,}"
    seconds = [values["time"] for values in metrics.values() if "time" in values]
    if seconds:
        facts["time of an iteration"] = f"{statistics.median(seconds):.2f} s (median)"
    return facts


def _log_facts(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    log = file.read_text(errors="replace")
    facts = {}
    stamps = _TIMESTAMP.findall(log)
    if stamps:
        facts["first and last line of the log"] = f"{stamps[0]} and {stamps[-1]}"
    for name, pattern in (
        ("time of training", r"Total training time: (.+?) \("),
        ("peak memory on the GPU", r"max_mem: (\d+M)"),
        ("processes", r"World size: (\d+)"),
    ):
        found = re.findall(pattern, log)
        if found:
            facts[name] = found[-1]
    return {**facts, **_environment(log)}


def _environment(log: str) -> dict[str, str]:
    """Machine and versions, from the table that detectron2 writes at the start of a run."""
    tables = re.findall(r"Environment info:\n-[- ]*\n(.*?)\n-[- ]*\n", log, re.DOTALL)
    if not tables:
        return {}
    rows = dict(re.findall(r"^(\S.*?) {2,}(.+)$", tables[-1], re.MULTILINE))
    # Without the folders and compilers that follow.
    short = {name: re.split(r" [@(]", value)[0] for name, value in rows.items()}
    gpus = [value for name, value in short.items() if re.match(r"GPU [\d,]+$", name)]
    facts = {"platform": short.get("sys.platform", ""), "GPUs": ", ".join(gpus)}
    facts.update((name, short.get(name, "")) for name in _VERSIONS)
    return {name: value for name, value in facts.items() if value}
