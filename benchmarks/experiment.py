"""The trainings of the ablation: one per row and seed, each in its own folder."""

import json
import logging
import math
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torchvision
import yaml
from components import ROWS, Row
from detectron2 import __version__ as detectron2_version
from detectron2.config import CfgNode
from filelock import FileLock, Timeout
from initial_weights import build_initial_model, copy_common_weights
from macs import count_macs
from measure import machine

from panet import load_config
from panet.engine import PANetTrainer
from panet.prepare import prepare
from panet.reporting.run import read_metrics
from panet.utils.atomic import open_atomically
from panet.utils.errors import UserError
from panet.version import __version__ as panet_version

Result = dict[str, Any]

IMAGE_SIZE = 256
"""Height and width, in pixels, of the image whose MACs are counted."""


@dataclass(frozen=True)
class Experiment:
    """All trainings with the same base configuration and number of iterations.

    Attributes:
        config_file: the base configuration.
        overrides: alternating configuration keys and values, common to all rows.
        folder: contains the folder of each training, <row>/seed_<seed>.
        keep_weights: whether to keep the last checkpoint of finished trainings, model_final.pth.
    """

    config_file: str
    overrides: tuple[str, ...]
    folder: Path
    keep_weights: bool = False

    def run_folder(self, row: Row, seed: int) -> Path:
        """Return the folder of a training."""
        return self.folder / row.name / f"seed_{seed}"

    def load_config(self, row: Row, seed: int) -> CfgNode:
        """Load the configuration of a training."""
        own = ["SEED", str(seed), "OUTPUT_DIR", str(self.run_folder(row, seed))]
        cfg = prepare(load_config(self.config_file, [*self.overrides, *row.overrides(), *own]))
        cfg.freeze()
        return cfg

    def started(self) -> Iterator[tuple[Row, int]]:
        """Yield the trainings whose folder has a configuration, finished or not."""
        for row in ROWS.values():
            files = self.folder.glob(f"{row.name}/seed_*/config.yaml")
            for seed in sorted(int(file.parent.name.removeprefix("seed_")) for file in files):
                yield row, seed

    def check(self) -> None:
        """Check that all trainings in the folder belong to this experiment.

        Raises:
            UserError: if one has another configuration, so that it cannot be compared.
        """
        for row, seed in self.started():
            file = self.run_folder(row, seed) / "config.yaml"
            saved = _flatten(yaml.safe_load(file.read_text()))
            current = _flatten(yaml.safe_load(self.load_config(row, seed).dump()))
            keys = {key for key in current | saved if current.get(key) != saved.get(key)}
            keys.discard("OUTPUT_DIR")  # the folder may have been moved
            if keys:
                raise UserError(
                    f"{file.parent} contains a training with a different configuration ("
                    f"{', '.join(sorted(keys)[:5])}), which these trainings cannot be compared "
                    "with; choose another --output-dir."
                )

    def results(self) -> list[Result]:
        """Read the results of the finished trainings, in the order of the rows."""
        files = [self.run_folder(row, seed) / "result.json" for row, seed in self.started()]
        return [json.loads(file.read_text()) for file in files if file.is_file()]

    def run(self, row: Row, seed: int) -> None:
        """Train and evaluate, or resume an interrupted training.

        Does nothing if the training is finished or another process is running it.

        Raises:
            UserError, KeyboardInterrupt, SystemExit: see :meth:`PANetTrainer.train`.
        """
        folder = self.run_folder(row, seed)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            # The operating system releases the lock even if the process is killed.
            lock = FileLock(folder / "lock").acquire(blocking=False)
        except Timeout:
            return
        with lock:
            if not (folder / "result.json").exists():
                self._run(row, seed, folder)

    def _run(self, row: Row, seed: int, folder: Path) -> None:
        cfg = self.load_config(row, seed)
        with open_atomically(folder / "config.yaml", "w") as file:
            file.write(cfg.dump())
        with _log_to(folder / "log.txt"):
            PANetTrainer.check_data(cfg)
            trainer = PANetTrainer(cfg)
            initial = build_initial_model(row, lambda other: self.load_config(other, seed))
            copy_common_weights(initial, trainer.model)
            trainer.resume_or_load(resume=True)
            metrics = trainer.train()
        result = {
            "row": row.name,
            "seed": seed,
            "metrics": metrics,
            **_describe(trainer.model, cfg),
            "seconds_per_iteration": _seconds_per_iteration(folder),
        }
        with open_atomically(folder / "result.json", "w") as file:
            json.dump(result, file, indent=2)
        for path in (*folder.glob("model_*.pth"), folder / "last_checkpoint"):
            if not (self.keep_weights and path.name == "model_final.pth"):
                path.unlink(missing_ok=True)


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


@contextmanager
def _log_to(file: Path) -> Iterator[None]:
    """Send the log of detectron2 and panet to a file, and only warnings to the terminal."""
    to_file, to_terminal = logging.FileHandler(file), logging.StreamHandler(sys.stderr)
    to_file.setFormatter(logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s"))
    to_terminal.setLevel(logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("detectron2", "panet")]
    former = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers = [to_file, to_terminal]
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, former):
            logger.handlers, logger.level, logger.propagate = handlers, level, propagate
        to_file.close()


def _seconds_per_iteration(folder: Path) -> float:
    metrics = read_metrics(folder / "metrics.json").values()
    seconds = [values["time"] for values in metrics if "time" in values]
    # detectron2's IterationTimer skips the first three iterations.
    return statistics.median(seconds) if seconds else math.nan


def _describe(model: torch.nn.Module, cfg: CfgNode) -> Result:
    device = next(model.parameters()).device
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "multiply_adds": count_macs(
            model, IMAGE_SIZE, cfg.MODEL.RPN.POST_NMS_TOPK_TEST, cfg.TEST.DETECTIONS_PER_IMAGE
        ),
        "iterations": cfg.SOLVER.MAX_ITER,
        "device": device.type,
        "machine": machine(device),
        "versions": {
            "panet": panet_version,
            "detectron2": detectron2_version,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "faster-coco-eval": version("faster-coco-eval"),
        },
    }
