"""Images with more objects than COCO's metrics count."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from panet.evaluation import build_evaluator
from panet.reporting.accuracy import measure
from panet.reporting.detections import read_detections

SIDE, CELL, SIZE = 16, 8, 6  # objects in a row, their distance and their size
NAME = "many_objects"


def boxes(shift: float = 0.0) -> np.ndarray:
    corner = np.stack(np.meshgrid(*[CELL * np.arange(SIDE)] * 2), axis=-1).reshape(-1, 2) + shift
    return np.concatenate([corner, corner + SIZE], axis=1)


def masks(boxes: np.ndarray) -> np.ndarray:
    found = np.zeros((len(boxes), SIDE * CELL, SIDE * CELL), bool)
    for mask, (x0, y0, x1, y1) in zip(found, boxes.round().astype(int)):
        mask[y0:y1, x0:x1] = True
    return found


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[str]:
    """Two images with 256 objects each."""
    annotations = []
    for image_id in (1, 2):
        for (x0, y0, x1, y1), mask in zip(boxes().tolist(), masks(boxes())):
            encoded = rle.encode(np.asfortranarray(mask, np.uint8))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": SIZE**2,
                    "iscrowd": 0,
                    "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
                }
            )
    size = {"height": SIDE * CELL, "width": SIDE * CELL}
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", **size} for i in (1, 2)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object"}],
    }
    (tmp_path / "many.json").write_text(json.dumps(content))
    register_coco_instances(NAME, {}, str(tmp_path / "many.json"), str(tmp_path))
    yield NAME
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def predict(limit: int) -> list[Instances]:
    """Two thirds of the objects, some of them badly, and as many boxes of nothing."""
    generator = np.random.default_rng(0)
    predictions = []
    for _ in range(2):
        right = boxes()[generator.random(SIDE**2) < 0.66]
        moved = right + generator.choice([0.0, 1.0], (len(right), 1))
        found = generator.permutation(np.concatenate([moved, boxes(SIZE / 2)[: len(right)]]))[
            :limit
        ]
        found = found.clip(0, SIDE * CELL)
        predictions.append(
            Instances(
                (SIDE * CELL, SIDE * CELL),
                pred_boxes=Boxes(torch.tensor(found)),
                pred_masks=torch.tensor(masks(found)),
                pred_classes=torch.zeros(len(found), dtype=torch.int64),
                scores=torch.tensor(generator.permutation(np.linspace(0.1, 0.9, len(found)))),
            )
        )
    return predictions


def evaluate(cfg: CfgNode, dataset: str) -> dict[str, Any]:
    evaluator = build_evaluator(cfg, dataset)
    evaluator.reset()
    records = DatasetCatalog.get(dataset)
    for record, instances in zip(records, predict(cfg.TEST.DETECTIONS_PER_IMAGE), strict=True):
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()


def official(cfg: CfgNode, dataset: str, task: str, max_detections: int) -> list[float]:
    """AP, AP50 and AP75 from pycocotools' arrays."""
    truth = COCO(MetadataCatalog.get(dataset).json_file)
    file = Path(cfg.OUTPUT_DIR, "inference", "coco_instances_results.json")
    evaluation = COCOeval(truth, truth.loadRes(str(file)), task)
    evaluation.params.maxDets = [max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, 0, 0, 0]
    return [100 * precision[rows].mean() for rows in (slice(None), 0, 5)]


@pytest.mark.parametrize(("limit", "text_ids"), [(60, False), (250, False), (250, True)])
def test_as_many_detections_count_as_the_model_gives(
    tiny_cfg: CfgNode, dataset: str, limit: int, text_ids: bool
) -> None:
    if text_ids:  # which pycocotools itself evaluates
        file = Path(MetadataCatalog.get(dataset).json_file)
        content = json.loads(file.read_text())
        for image in content["images"]:
            image["id"] = f"image {image['id']}"
        for annotation in content["annotations"]:
            annotation["image_id"] = f"image {annotation['image_id']}"
        file.write_text(json.dumps(content))
    tiny_cfg.TEST.DETECTIONS_PER_IMAGE = limit
    tiny_cfg.DATASETS.TEST = (dataset,)
    tiny_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    results = evaluate(tiny_cfg, dataset)
    counted = max(100, limit)
    for task in ("bbox", "segm"):
        found = [results[task][name] for name in ("AP", "AP50", "AP75")]
        assert found == pytest.approx(official(tiny_cfg, dataset, task, counted))
        assert results[task]["APs"] == pytest.approx(results[task]["AP"])  # all are small
        if limit > 100:
            assert found[0] > 1.5 * official(tiny_cfg, dataset, task, 100)[0]
    report = measure(read_detections(Path(tiny_cfg.OUTPUT_DIR), tiny_cfg), "segm")
    assert report.metrics == pytest.approx(results["segm"], nan_ok=True)
