"""The output folder of a training and evaluation, with invented values."""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from pycocotools import mask as rle

LOG = """\
[03/01 10:00:00] detectron2 INFO: Rank of current process: 0. World size: 2
[03/01 10:00:00] detectron2 INFO: Environment info:
-------------------------------  ---------------------------------------------------
sys.platform                     linux
Python                           3.11.7 (main, May  9 2026, 07:35:25) [GCC 12.2.0]
numpy                            2.4.6
detectron2                       0.7.2 @/somewhere/detectron2
PyTorch                          2.15.0+cu132 @/somewhere/torch
GPU available                    Yes
GPU 0,1                          NVIDIA H100 80GB HBM3 (arch=9.0)
torchvision                      0.29.2 @/somewhere/torchvision
-------------------------------  ---------------------------------------------------
PyTorch built with:
  - GCC 13.3

[03/01 10:02:00] detectron2.utils.events INFO:  eta: 0:00:34  iter: 19  max_mem: 5120M
[03/01 10:05:30] detectron2.engine.hooks INFO: Total training time: 0:05:20 (0:00:01 on hooks)
"""


def write_run(cfg: CfgNode) -> Path:
    """Write a run to ``cfg.OUTPUT_DIR``, with predictions for the last test dataset."""
    folder = Path(cfg.OUTPUT_DIR)
    (folder / "inference").mkdir(parents=True)
    (folder / "config.yaml").write_text(cfg.dump())
    (folder / "log.txt").write_text(LOG)
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in metrics()))
    write_predictions(folder, predict(ground_truth(cfg)))
    return folder


def metrics() -> list[dict[str, float]]:
    """Return the lines of metrics.json of 60 iterations with two evaluations."""
    rows = [
        {"iteration": i, "total_loss": 2.0 - i / 60, "loss_cls": 1.0, "lr": 0.01, "time": 0.5}
        for i in (19, 39, 59)
    ]
    evaluations = [
        {"iteration": i, "bbox/AP": i / 2, "bbox/AP-disk": 70.0, "segm/AP": i / 3} for i in (29, 60)
    ]
    return rows + evaluations


@contextmanager
def registered(name: str, content: dict[str, Any], folder: Path, image_root: str) -> Iterator[str]:
    """Write a COCO dataset to the folder, register it, and yield its name."""
    json_file = folder / f"{name}.json"
    json_file.write_text(json.dumps(content))
    register_coco_instances(name, {}, str(json_file), image_root)
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def ground_truth(cfg: CfgNode) -> dict[str, Any]:
    """Load the annotation file of the last test dataset."""
    return json.loads(Path(MetadataCatalog.get(cfg.DATASETS.TEST[-1]).json_file).read_text())


def predict(content: dict[str, Any], seed: int = 0) -> list[dict[str, Any]]:
    """Create predictions: some shifted, misclassified, duplicate, missing or false positive."""
    rng = np.random.default_rng(seed)
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    categories = [category["id"] for category in content["categories"]]
    predictions = []
    for item in content["annotations"]:
        for _ in range(rng.integers(0, 4)):
            box = np.array(item["bbox"]) + rng.normal(0, 2, 4)
            if rng.random() < 0.2:
                box[:2] = rng.uniform(0, 200, 2)
            box[2:] = box[2:].clip(2)
            category = item["category_id"] if rng.random() < 0.8 else rng.choice(categories)
            predictions.append(
                {
                    "image_id": item["image_id"],
                    "category_id": int(category),
                    "bbox": box.tolist(),
                    "score": float(rng.random()),
                    "segmentation": _box_mask(box, *sizes[item["image_id"]]),
                }
            )
    return predictions


def write_predictions(folder: Path, predictions: list[dict[str, Any]]) -> None:
    """Write the results file of detectron2's evaluator."""
    file = folder / "inference" / "coco_instances_results.json"
    file.write_text(json.dumps(predictions))


def with_crowds(content: dict[str, Any]) -> dict[str, Any]:
    """Return a copy in which every fifth object is a crowd."""
    content = copy.deepcopy(content)
    for item in content["annotations"][::5]:
        item["iscrowd"] = 1
    return content


def _box_mask(box: np.ndarray, height: int, width: int) -> dict[str, Any]:
    mask = np.zeros((height, width), np.uint8, order="F")
    x, y, w, h = box.clip(0).astype(int)
    mask[y : y + h, x : x + w] = 1
    encoded = rle.encode(mask)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}
