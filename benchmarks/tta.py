#!/usr/bin/env python
"""Measure the effect of test-time augmentation (TTA), voting and ensembles on AP.

Evaluates a trained model on its test dataset with different options and prints a Markdown table of
box AP, mask AP and the time of the model as a ratio to the first row.
"""

import argparse
import io
import logging
import time
from contextlib import redirect_stdout
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_on_dataset
from tabulate import tabulate
from torch import nn

from panet import load_config, model_zoo
from panet.deployment import load_trained_model
from panet.engine import PANetTrainer
from panet.prepare import prepare
from panet.utils.choices import check_choice
from panet.utils.device import keep_freed_memory
from panet.utils.errors import add_debug_argument, exit_on_user_error

OFF = {
    "TEST.AUG.ENABLED": False,
    "TEST.BOX_VOTING.ENABLED": False,
    "TEST.MASK_VOTING.ENABLED": False,
    "TEST.TIGHTEN_BOXES": False,
}
VIEWS = {"TEST.AUG.ENABLED": True, "TEST.AUG.FLIP": True}
MASK_VOTING = {"TEST.MASK_VOTING.ENABLED": True}
BOX_VOTING = {"TEST.BOX_VOTING.ENABLED": True}
TIGHT = {"TEST.TIGHTEN_BOXES": True}
VOTING = {**MASK_VOTING, **BOX_VOTING}
METRICS = ("AP", "AP50", "AP75")


def rows(size: int, models: list[list[str]]) -> dict[str, dict[str, Any]]:
    """Return the configuration keys and values of each row of the table.

    Args:
        size: shorter side of test images without TTA, in pixels.
        models: configuration file and weights of each model; several for ensembles.
    """
    flip = {**VIEWS, "TEST.AUG.MIN_SIZES": (size,)}
    scales = {**VIEWS, "TEST.AUG.FLIP": False}
    table = {
        "one view": {},
        "box voting": BOX_VOTING,
        "tightened boxes": TIGHT,
        "flip": flip,
        "flip, mask voting": {**flip, **MASK_VOTING},
        "scales": scales,
        "scales, mask voting": {**scales, **MASK_VOTING},
        "scales, flip": VIEWS,
        "scales, flip, mask voting": {**VIEWS, **MASK_VOTING},
        "scales, flip, box voting": {**VIEWS, **BOX_VOTING},
        "scales, flip, mask and box voting": {**VIEWS, **VOTING},
        "the same, tightened boxes": {**VIEWS, **VOTING, **TIGHT},
    }
    for number, model in enumerate(models[1:], start=2):
        table[f"model {number}, one view"] = {"TEST.ENSEMBLE.MEMBERS": [model]}
    if len(models) > 1:
        ensemble = {"TEST.ENSEMBLE.MEMBERS": models}
        name = f"ensemble of {len(models)}"
        table[name] = ensemble
        table[f"{name}, scales, flip, mask and box voting"] = {**ensemble, **VIEWS, **VOTING}
    return table


class Stopwatch(nn.Module):
    """Adds up the seconds of all calls of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seconds = 0.0

    def forward(self, inputs: list[dict[str, Any]]) -> Any:
        """See ``GeneralizedRCNN``."""
        start = time.perf_counter()
        outputs = self.model(inputs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - start
        return outputs


def evaluate(cfg: CfgNode) -> tuple[dict[str, dict[str, float]], float]:
    """Return the metrics on the first test dataset and the seconds spent in the model."""
    model = Stopwatch(load_trained_model(cfg)[0])
    dataset = cfg.DATASETS.TEST[0]
    loader = PANetTrainer.build_test_loader(cfg, dataset)
    with redirect_stdout(io.StringIO()):  # of pycocotools
        metrics = inference_on_dataset(model, loader, PANetTrainer.build_evaluator(cfg, dataset))
    return metrics, model.seconds


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", required=True, help="path or name")
    weights = "checkpoints; rows without an ensemble use the first one"
    parser.add_argument("--weights", nargs="+", required=True, metavar="FILE", help=weights)
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="rows to evaluate; default: all")
    add_debug_argument(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="configuration KEY VALUE pairs")
    return parser.parse_args()


@exit_on_user_error()
def main() -> None:
    """Evaluate every row and print the table."""
    args = parse_arguments()
    logging.getLogger("detectron2").setLevel(logging.WARNING)
    file = model_zoo.find_config_file(args.config_file)
    base = prepare(load_config(file, [*args.opts, "MODEL.WEIGHTS", args.weights[0]]))
    if base.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    lines, first = [], 0.0
    table = rows(base.INPUT.MIN_SIZE_TEST, [[file, weights] for weights in args.weights])
    for name in args.rows or table:
        changes = table[check_choice("--rows", name, table)]
        cfg = base.clone()
        for key, value in {**OFF, **changes}.items():
            cfg.merge_from_list([key, value])
        metrics, seconds = evaluate(cfg)
        first = first or seconds
        values = [metrics[task][metric] for task in ("bbox", "segm") for metric in METRICS]
        lines.append([name, *values, seconds / first])
        print(f"{name}: {values[0]:.2f} {values[3]:.2f}", flush=True)
    headers = ["", *(f"{task} {metric}" for task in ("box", "mask") for metric in METRICS), "time"]
    print(tabulate(lines, headers, tablefmt="github", floatfmt=".1f"))


if __name__ == "__main__":
    main()
