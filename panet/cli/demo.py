"""``panet demo``: train, evaluate and visualize PANet on the embedded dataset."""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase, default_setup
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from PIL import Image
from torch import nn
from tqdm import tqdm

from panet.cli import console
from panet.config import load_config
from panet.engine import PANetTrainer
from panet.evaluation import draw_comparison
from panet.model_zoo import get_config_file
from panet.prepare import prepare
from panet.reporting import read_run, write_report
from panet.reporting.accuracy import METRICS
from panet.utils.device import keep_freed_memory

Picture = npt.NDArray[np.uint8]

NUM_PICTURES = 12
NUM_EARLY_PICTURES = 4
NUM_EARLY_DETECTIONS = 8
"""Number of detections to draw per image early in training, when all scores are low."""


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    program_start = time.perf_counter()
    cfg = prepare(load_config(get_config_file("quick/panet_R18_shapes.yaml"), args.opts))
    cfg.OUTPUT_DIR = str(args.output_dir)
    cfg.freeze()
    seconds = {"setup": args.setup_seconds}

    @contextmanager
    def stage(name: str, announcement: str) -> Iterator[None]:
        print(announcement, flush=True)
        start = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - start, 1)

    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    resume = has_same_config(args.output_dir / "config.yaml", cfg)
    console.log_to_file(cfg.OUTPUT_DIR)
    default_setup(cfg, args)
    with stage("data", "Drawing the dataset ..."):
        for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
            DatasetCatalog.get(name)
    folder = args.output_dir / "pictures"
    with stage("training", "Training ..."):
        elapsed = time.perf_counter() - program_start
        trainer = train(cfg, resume, folder, args.early_pictures_after - elapsed)
    with stage("evaluation", "Evaluating ..."), console.without_stdout():
        metrics = evaluate(cfg, trainer)
    with stage("pictures", "Drawing predictions ..."):
        draw_pictures(cfg, trainer.model, folder)
    report = args.output_dir / "report.html"
    with stage("report", "Writing the report ..."):
        write_report(read_run(args.output_dir), report)

    results = {
        task: {metric: round(metrics[task][metric], 2) for metric in METRICS}
        for task in ("bbox", "segm")
    }
    results_file = args.output_dir / "results.json"
    results_file.write_text(json.dumps({**results, "seconds": seconds}, indent=2) + "\n")
    console.print_results(results)
    print(f"\nreport     {report}")
    print(f"figures    {results_file}")
    print(f"pictures   {folder}")
    print(f"model      {args.output_dir / 'model_final.pth'}")
    print(f"log        {args.output_dir / 'log.txt'}")
    print(f"curves     tensorboard --logdir {args.output_dir}")


class EarlyLook(HookBase):
    """Saves a checkpoint once, early in training, and passes the model to a callback.

    It has no effect on the training.
    """

    def __init__(self, seconds: float, show: Callable[[nn.Module, int], None]) -> None:
        """
        Args:
            seconds: training time until then.
            show: called after the current iteration with the model, in evaluation mode and
                without gradients, and the number of iterations so far.
        """
        self.seconds = seconds
        self.show = show
        self.shown = False

    def before_train(self) -> None:
        self._start = time.perf_counter()

    def after_step(self) -> None:
        trainer = self.trainer
        is_due = time.perf_counter() - self._start >= self.seconds
        if self.shown or not is_due or not comm.is_main_process():
            return
        self.shown = True
        trainer.checkpointer.save(f"model_{trainer.iter:07d}", iteration=trainer.iter)
        trainer.model.eval()
        with torch.no_grad():
            self.show(trainer.model, trainer.iter + 1)
        trainer.model.train()

    def state_dict(self) -> dict[str, Any]:
        return {"shown": self.shown}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shown = state["shown"]


def has_same_config(config_file: Path, cfg: CfgNode) -> bool:
    """Whether the results in the output folder are of this configuration."""
    return config_file.exists() and config_file.read_text() == cfg.dump()


def train(
    cfg: CfgNode, resume: bool, folder: Path, seconds_to_early_pictures: float
) -> PANetTrainer:
    def show(model: torch.nn.Module, iterations: int) -> None:
        file = folder / "early.jpg"
        pictures = compare(cfg, model, NUM_EARLY_PICTURES, NUM_EARLY_DETECTIONS)
        write_overview(list(pictures.values()), file)
        # Unlike print, this writes above a progress bar.
        tqdm.write(f"{file} shows the predictions after iteration {iterations}.")

    without_tests = cfg.clone()
    without_tests.defrost()
    without_tests.DATASETS.TEST = ()  # evaluation is a stage of its own
    trainer = PANetTrainer(without_tests)
    trainer.register_hooks([EarlyLook(seconds_to_early_pictures, show)])
    console.show_progress(trainer)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def evaluate(cfg: CfgNode, trainer: PANetTrainer) -> dict[str, Any]:
    """Evaluate, and write metrics and images as an evaluation during training does."""
    with EventStorage(cfg.SOLVER.MAX_ITER) as storage:
        metrics = PANetTrainer.test(cfg, trainer.model)
        storage.put_scalars(**flatten_results_dict(metrics), smoothing_hint=False)
        for writer in trainer.build_writers():
            writer.write()
            writer.close()
    return metrics


def draw_pictures(cfg: CfgNode, model: torch.nn.Module, folder: Path) -> None:
    model.eval()
    with torch.no_grad():
        pictures = compare(cfg, model, NUM_PICTURES)
    write_overview(list(pictures.values())[:6], folder / "overview.jpg")
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / name)


def compare(
    cfg: CfgNode, model: torch.nn.Module, count: int, num_detections: int | None = None
) -> dict[str, Picture]:
    """Draw ground truth and predictions side by side, for the first test images by file name.

    Args:
        cfg: configuration, whose first test dataset is used.
        model: model in evaluation mode.
        count: number of images.
        num_detections: number of highest-scoring detections to draw; None for those above the
            score threshold of :func:`draw_comparison`.
    """
    dataset = cfg.DATASETS.TEST[0]
    records = DatasetCatalog.get(dataset)[:count]
    loader = PANetTrainer.build_test_loader(cfg, dataset)
    pictures = {}
    for record, inputs in zip(records, loader):
        instances = model(inputs)[0]["instances"]
        options = {} if num_detections is None else {"min_score": 0.0}
        picture = draw_comparison(
            record,
            instances[:num_detections],  # sorted by score
            MetadataCatalog.get(dataset),
            scale=1.5,
            **options,
        )
        pictures[Path(record["file_name"]).name] = picture
    return pictures


def write_overview(pictures: Sequence[Picture], file: Path) -> None:
    """Arrange an even number of images of the same size in two columns."""
    rows = [np.concatenate(pictures[i : i + 2], axis=1) for i in range(0, len(pictures), 2)]
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(file)
