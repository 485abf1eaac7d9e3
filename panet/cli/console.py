"""What a training command prints; everything else goes to ``log.txt``."""

import io
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from tabulate import tabulate

from panet.engine import PANetTrainer
from panet.engine.hooks import ProgressBar
from panet.utils import cpu


def log_to_file(output_dir: str) -> None:
    """Send all messages but warnings to ``log.txt``."""
    # default_setup's calls with exactly these arguments add no handlers.
    rank = comm.get_rank()
    loggers = (
        setup_logger(output_dir, distributed_rank=rank, name="fvcore"),
        setup_logger(output_dir, distributed_rank=rank),
        setup_logger(output_dir, distributed_rank=rank, name="panet"),
    )
    for logger in loggers:
        for handler in logger.handlers:
            if getattr(handler, "stream", None) is sys.stdout:
                handler.setLevel(logging.WARNING)
    for name in ("torch.fx._symbolic_trace", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)  # about what users cannot change


@contextmanager
def without_stdout() -> Iterator[None]:
    """Drop what COCO's evaluation prints; the log has its tables too."""
    with redirect_stdout(io.StringIO()):
        yield


def show_progress(trainer: PANetTrainer) -> None:
    """Print the progress of the training; at a terminal, the trainer itself shows a bar."""
    if not sys.stderr.isatty():
        trainer.register_hooks([ProgressBar()])


def print_run(config_file: str, trainer: PANetTrainer) -> None:
    """Print what is about to be trained, on what, and where the results go."""
    settings = trainer.settings
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    device = torch.device(settings.device)
    if device.type == "cpu":
        name = f"CPU ({cpu.name()}), {torch.get_num_threads()} thread(s)"
    else:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    precision = settings.amp_dtype if settings.amp_enabled else "float32"
    rows = {
        "model": f"{config_file or 'defaults'}, {parameters / 1e6:.1f} M parameters",
        "weights": settings.weights or "random",
        "device": f"{comm.get_world_size()} x {name}, {precision}",
        "train": _describe(trainer.datasets(trainer.cfg, "TRAIN")),
        "test": _describe(trainer.datasets(trainer.cfg, "TEST")),
        "schedule": f"iterations {trainer.start_iter:,} to {settings.max_iter:,}",
        "output": settings.output_dir,
    }
    for key, value in rows.items():
        print(f"{key:10} {value}", file=sys.stderr, flush=True)


def print_run_end(trainer: PANetTrainer) -> None:
    """Print where the trained model is, and how to see what it learned."""
    folder = Path(trainer.settings.output_dir)
    print(f"{'saved':10} {folder / 'model_final.pth'}", file=sys.stderr)
    print(f"{'report':10} panet report {folder}", file=sys.stderr, flush=True)


def _describe(names: Sequence[str]) -> str:
    if not names:
        return "none"
    classes = len(MetadataCatalog.get(names[0]).get("thing_classes", ()))
    return f"{', '.join(names)}" + (f", {classes:,} classes" if classes else "")


def print_results(results: Mapping[str, Any] | None) -> None:
    """Print the overall metrics of every task, and of every dataset if there are several."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in flatten_results_dict(dict(results or {})).items():
        task, _, metric = name.rpartition("/")
        if not metric.startswith("AP-"):  # of a class
            rows.setdefault(task, {})[metric] = value
    for metrics in dict.fromkeys(map(tuple, rows.values())):
        table = [
            [task, *values.values()] for task, values in rows.items() if tuple(values) == metrics
        ]
        print(tabulate(table, headers=["", *metrics], floatfmt=".1f"))
