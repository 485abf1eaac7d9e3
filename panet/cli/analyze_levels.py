"""``panet analyze-levels``: the sources of adaptive feature pooling, as in Figure 3."""

import argparse
import csv
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from matplotlib.figure import Figure
from tabulate import tabulate
from tqdm import tqdm

from panet import model_zoo
from panet.cli.models import load_model
from panet.config import load_config
from panet.engine import PANetTrainer
from panet.evaluation.level_shares import LevelShares, count_level_shares
from panet.evaluation.tta.views import batches_of_like_size, build_view_mapper, make_views
from panet.prepare import prepare
from panet.utils.device import keep_freed_memory
from panet.utils.errors import UserError

BOXES = {"box": "proposals", "mask": "detections"}


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    cfg = prepare(load_config(model_zoo.find_config_file(args.config_file), args.opts))
    cfg.freeze()
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    seed_all_rng(max(cfg.SEED, 0))  # weights that no checkpoint gives are random ones
    model = load_model(cfg)
    datasets = [args.dataset] if args.dataset else cfg.DATASETS.TEST
    if not datasets:
        raise UserError("DATASETS.TEST is empty; name a dataset with --dataset.")
    loaders: list[Any] = [PANetTrainer.build_test_loader(cfg, dataset) for dataset in datasets]
    number = sum(len(loader) for loader in loaders)
    if args.max_images is not None:
        number = min(number, args.max_images)
    images = islice(chain.from_iterable(chain.from_iterable(loaders)), number)
    with tqdm(images, total=number, desc="images") as progress:
        result = count_level_shares(model, view_batches(cfg, progress), args.head)
    if result.boxes.sum() == 0:
        raise UserError(
            f"The {args.head} head got no {BOXES[args.head]} in {number} images; give more images "
            "or trained weights (MODEL.WEIGHTS)."
        )
    args.output_dir.mkdir(parents=True, exist_ok=True)
    write_csv(result, args.output_dir / "levels.csv")
    draw(result, args.head, args.output_dir / "levels.png")
    print(
        f"The {args.head} head on {number} images, "
        f"{cfg.MODEL.WEIGHTS or 'random weights'}: percent of the features\n"
    )
    print(format_table(result, args.head))
    print(f"\ntable      {args.output_dir / 'levels.csv'}")
    print(f"figure     {args.output_dir / 'levels.png'}")


def view_batches(cfg: CfgNode, images: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """What the model sees of each image when it is evaluated."""
    view_mapper = build_view_mapper(cfg)
    for image in images:
        yield from batches_of_like_size(make_views(image, view_mapper), cfg.TEST.AUG.BATCH_SIZE)


def write_csv(result: LevelShares, path: Path) -> None:
    """One row for each group and source level; the share is empty where there are no features."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["assigned_level", "source_level", "share", "boxes", "features"])
        for group, shares, boxes, features in zip(
            result.levels, result.shares, result.boxes, result.features
        ):
            for source, share, count in zip(result.levels, shares, features):
                writer.writerow(
                    [group, source, "" if np.isnan(share) else f"{share:.6f}", boxes, count]
                )


def format_table(result: LevelShares, head: str) -> str:
    rows = []
    for group, shares in enumerate(result.shares):
        row = [result.levels[group], result.boxes[group]]
        if not np.isnan(shares).any():
            row += [*100 * shares, 100 * shares[group + 1 :].sum(), 100 * shares[:group].sum()]
        rows.append(row)
    headers = ["assigned to", BOXES[head], *result.levels, "higher", "lower"]
    return tabulate(rows, headers=headers, floatfmt=".1f", intfmt=",")


def draw(result: LevelShares, head: str, path: Path) -> None:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for group, (shares, boxes) in enumerate(zip(result.shares, result.boxes)):
        label = f"{result.levels[group]}: {boxes:,} {BOXES[head]}"
        (line,) = axes.plot(result.levels, 100 * shares, marker="o", label=label)
        own = (result.levels[group], 100 * shares[group])
        axes.plot(*own, "o", markersize=11, fillstyle="none", color=line.get_color())
    axes.set_xlabel("level that the features come from (ringed: the assigned one)")
    axes.set_ylabel("share of the fused features, %")
    axes.update_datalim([(0, 0)])
    axes.autoscale_view()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(title="assigned by FPN's rule to")
    axes.set_title(f"Adaptive feature pooling, {head} head")
    figure.savefig(path, dpi=150)
