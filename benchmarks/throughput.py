"""Measure images per second of panet predict and train_net.py --eval-only, against detectron2.

predict    against a loop over DefaultPredictor: read, predict, draw, encode, write
evaluate   against inference_on_dataset with detectron2's loader and COCOEvaluator

All four use the same configuration and weights in single precision and write the same kinds of
files. They run one after the other, each in its own process, and are timed after the model has been
built and has processed one image. By default the weights are random. The model then computes its
proposals and detections, but continues with given ones, the same for every image, and predicts
elliptic masks for them: 10 detections per image for predict, 100 for evaluate.
"""

import argparse
import json
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import boxes
import cv2
import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.data.datasets import register_coco_instances
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.engine import DefaultPredictor
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer
from measure import add_common_arguments, machine, reexecute
from pycocotools import mask as rle
from rows import SEED
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from panet import load_config
from panet.data.shapes import draw_image
from panet.engine import PANetTrainer
from panet.model_zoo import find_config_file
from panet.prediction import Predictor
from panet.prediction.folder import ResultsFolder
from panet.prediction.inputs import find_files, name_sources
from panet.prediction.results_file import merge
from panet.prediction.worker import predict_share, unfinished_sources
from panet.prepare import prepare
from panet.utils.device import keep_freed_memory

IMAGE_SIZE = (480, 640)
NUM_DETECTIONS = {"predict": 10, "evaluate": 100}

# Processes the images in one folder and writes the results to another.
Run = Callable[[Path, Path], None]


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="panet_R50_2fc_1x.yaml", help="path or name")
    weights = "trained weights, whose own detections are used; default: random"
    parser.add_argument("--weights", default="", help=weights)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--images", type=int, default=24)
    add_common_arguments(parser)
    parser.add_argument("--only", nargs=3, metavar=("TASK", "BY", "DIR"), help=argparse.SUPPRESS)
    opts = "configuration KEY VALUE pairs; must be the last argument"
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help=opts)
    args = parser.parse_args()
    if min(args.images, args.rounds) < 1:
        parser.error("--images and --rounds must be at least 1")
    reexecute(args.isa)
    return args


def main() -> None:
    """Measure all programs and report; with ``--only`` (in a child process), measure one."""
    args = parse_arguments()
    cfg = prepare(load_config(find_config_file(args.config_file), args.opts))
    if args.only:
        task, by, folder = args.only
        print(json.dumps(measure(args, cfg, task, by, Path(folder))))
        return
    report = {
        "machine": machine(torch.device(cfg.MODEL.DEVICE)),
        "torch": torch.__version__,
        "config": args.config_file,
        "images": args.images,
        "rounds": args.rounds,
        "rows": compare(args, cfg),
    }
    print(as_text(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


def compare(args: argparse.Namespace, cfg: CfgNode) -> list[dict[str, Any]]:
    """Measure all programs alternately and return a row of medians for each."""
    measured: dict[tuple[str, str], list[list[float]]] = {
        (task, by): [] for task in args.tasks for by in TASKS[task]
    }
    with tempfile.TemporaryDirectory(prefix="throughput-") as name:
        folder = Path(name)
        write_dataset(folder / "images", args.images, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
        write_dataset(folder / "warm_up", 1, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
        if not args.weights:
            torch.manual_seed(SEED)
            torch.save({"model": build_model(cfg).state_dict()}, folder / "model.pth")
        for _ in tqdm(range(args.rounds), "rounds"):
            for task, by in measured:
                measured[task, by].append(measure_in_new_process(task, by, folder))
    rows: list[dict[str, Any]] = []
    for (task, by), times in measured.items():
        seconds, cpu_seconds = map(statistics.median, zip(*times))
        row = {
            "task": task,
            "by": by,
            "images_per_second": args.images / seconds,
            "processor_seconds_per_image": cpu_seconds / args.images,
        }
        stock = row if by == STOCK else rows[-1]
        row["ratio_to_stock"] = row["images_per_second"] / stock["images_per_second"]
        rows.append(row)
    return rows


def measure_in_new_process(task: str, by: str, folder: Path) -> list[float]:
    """Call :func:`measure` in a new process."""
    command = [sys.executable, sys.argv[0], "--only", task, by, str(folder), *sys.argv[1:]]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    times: list[float] = json.loads(output.splitlines()[-1])
    return times


def measure(
    args: argparse.Namespace, cfg: CfgNode, task: str, by: str, folder: Path
) -> list[float]:
    """Return the wall-clock seconds and the CPU seconds of all processors for all images."""
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS = args.weights or str(folder / "model.pth")
    cfg.DATASETS.TEST = (register(folder / "images"),)
    if by != STOCK and cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()  # as both commands do
    model, run = TASKS[task][by](cfg)
    with nullcontext() if args.weights else forced(model, cfg, NUM_DETECTIONS[task]):
        run(folder / "warm_up", Path(tempfile.mkdtemp(dir=folder)))
        output = Path(tempfile.mkdtemp(dir=folder))
        start, before = time.perf_counter(), sum(os.times()[:4])
        run(folder / "images", output)
        return [time.perf_counter() - start, sum(os.times()[:4]) - before]


def predict_by_detectron2(cfg: CfgNode) -> tuple[nn.Module, Run]:
    """Build the model, and a loop over DefaultPredictor with the outputs of panet predict."""
    predictor = DefaultPredictor(cfg)
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])

    def run(images: Path, output: Path) -> None:
        results = []
        for number, file in enumerate(sorted(images.iterdir()), start=1):
            image = cv2.imread(str(file))
            instances = predictor(image)["instances"].to("cpu")
            drawn = Visualizer(image[:, :, ::-1], metadata).draw_instance_predictions(instances)
            drawn = drawn.get_image()[:, :, ::-1]
            cv2.imwrite(str(output / file.name), drawn, [cv2.IMWRITE_JPEG_QUALITY, 95])
            results += instances_to_coco_json(instances, number)
        (output / "results.json").write_text(json.dumps(results))

    return predictor.model, run


def predict_by_panet(cfg: CfgNode) -> tuple[nn.Module, Run]:
    """Build the model, and the function that panet predict runs with it."""
    predictor = Predictor(cfg)

    def run(images: Path, output: Path) -> None:
        folder = ResultsFolder(output)
        folder.write_categories(predictor.categories)
        sources = name_sources(find_files([str(images)]), images)
        predict_share(
            predictor,
            folder,
            unfinished_sources(sources, folder),
            batch_size=1,
            rank=0,
            processes=1,
            counter=multiprocessing.get_context("spawn").Value("q", 0),
        )
        merge(folder)

    return predictor.model, run


def evaluate_by_detectron2(cfg: CfgNode) -> tuple[nn.Module, Run]:
    """Build the model, and what DefaultTrainer.test does with it for a COCO dataset."""
    model = build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)

    def run(images: Path, output: Path) -> None:
        name = register(images)
        evaluator = COCOEvaluator(name, output_dir=str(output))
        inference_on_dataset(model, build_detection_test_loader(cfg, name), evaluator)

    return model, run


def evaluate_by_panet(cfg: CfgNode) -> tuple[nn.Module, Run]:
    """Build the model, and the function that train_net.py --eval-only runs with it."""
    model = PANetTrainer.build_model(cfg)
    PANetTrainer.build_checkpointer(cfg, model).load(cfg.MODEL.WEIGHTS)

    def run(images: Path, output: Path) -> None:
        test_cfg = cfg.clone()
        test_cfg.DATASETS.TEST = (register(images),)
        test_cfg.OUTPUT_DIR = str(output)
        PANetTrainer.test(test_cfg, model)

    return model, run


STOCK = "detectron2"
TASKS = {
    "predict": {STOCK: predict_by_detectron2, "panet": predict_by_panet},
    "evaluate": {STOCK: evaluate_by_detectron2, "panet": evaluate_by_panet},
}


def write_dataset(folder: Path, count: int, num_classes: int) -> None:
    """Write images of shapes into the folder and COCO annotations next to it."""
    height, width = IMAGE_SIZE
    images, annotations = [], []
    folder.mkdir()
    for number in range(1, count + 1):
        pixels, kinds, masks = draw_image(SEED, number)
        name = f"{number:04d}.jpg"
        cv2.imwrite(str(folder / name), cv2.resize(pixels, (width, height)))
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for kind, mask in zip(kinds, masks):
            resized = cv2.resize(mask.astype(np.uint8), (width, height))
            encoded = rle.encode(np.asfortranarray(resized))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": kind % num_classes + 1,
                    "segmentation": encoded | {"counts": encoded["counts"].decode()},
                    "area": int(rle.area(encoded)),
                    "bbox": rle.toBbox(encoded).tolist(),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, num_classes + 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    folder.with_suffix(".json").write_text(json.dumps(content))


def register(folder: Path) -> str:
    """Register a dataset of :func:`write_dataset` if necessary, and return its name."""
    name = f"throughput_{folder}"
    if name not in DatasetCatalog:
        register_coco_instances(name, {}, str(folder.with_suffix(".json")), str(folder))
    return name


@contextmanager
def forced(model: nn.Module, cfg: CfgNode, count: int) -> Iterator[None]:
    """Make a PANet continue with the same boxes for every image and predict elliptic masks."""
    generator = torch.Generator().manual_seed(SEED)
    size = ResizeShortestEdge.get_output_shape(
        *IMAGE_SIZE, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    )
    num_proposals = min(boxes.NUM_PROPOSALS, cfg.MODEL.RPN.POST_NMS_TOPK_TEST)
    device = torch.device(cfg.MODEL.DEVICE)
    proposed = boxes.proposals(boxes.random_boxes(num_proposals, generator), device)
    detected = boxes.detections(boxes.random_boxes(count, generator), device)
    for scaled in (proposed.proposal_boxes, detected.pred_boxes):
        scaled.scale(size[1] / boxes.IMAGE_SIZE[1], size[0] / boxes.IMAGE_SIZE[0])
    detected.pred_classes %= cfg.MODEL.ROI_HEADS.NUM_CLASSES
    proposed, detected = (Instances(size, **i.get_fields()) for i in (proposed, detected))
    head = model.roi_heads.mask_head
    bias = head.fc_branch.fc.bias
    line = torch.linspace(-1, 1, math.isqrt(len(bias)), device=device)
    with torch.no_grad():
        head.predictor.weight.zero_()
        for parameter in head.fc_branch.fc.parameters():  # optimizing renames the weight
            parameter.zero_()
        bias.copy_((5 * (1 - line.square() - line[:, None].square())).flatten())
    with boxes.forced(model, [proposed], [detected]):
        yield


def as_text(report: dict[str, Any]) -> str:
    """Format the report as a table."""
    columns = {
        "": "task",
        "by": "by",
        "images/s": "images_per_second",
        "ratio": "ratio_to_stock",
        "CPU seconds per image": "processor_seconds_per_image",
    }
    lines = [[row[key] for key in columns.values()] for row in report["rows"]]
    table = tabulate(lines, list(columns), floatfmt=("", "", ".3g", ".2f", ".3g"))
    return (
        f"{report['machine']}, torch {report['torch']}, {report['config']}, {report['images']} "
        f"images, medians of {report['rounds']} rounds\n\n{table}"
    )


if __name__ == "__main__":
    main()
