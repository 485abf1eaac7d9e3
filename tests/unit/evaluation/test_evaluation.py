"""The evaluator of each dataset, and the pictures."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.cityscapes import load_cityscapes_instances
from detectron2.data.detection_utils import (
    annotations_to_instances,
    read_image,
    transform_instance_annotations,
)
from detectron2.data.transforms import NoOpTransform, TransformList
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    COCOEvaluator,
    DatasetEvaluator,
    LVISEvaluator,
)
from detectron2.structures import Boxes, Instances
from small_datasets import write_cityscapes

from panet.evaluation import build_evaluator, draw_comparison
from panet.utils.errors import UserError


def ground_truth_as_predictions(record: dict[str, Any]) -> Instances:
    size = (record["height"], record["width"])
    annotations = [
        transform_instance_annotations(annotation, TransformList([NoOpTransform()]), size)
        for annotation in record["annotations"]
    ]
    targets = annotations_to_instances(annotations, size, mask_format="bitmask")
    return Instances(
        size,
        pred_boxes=targets.gt_boxes,
        pred_classes=targets.gt_classes,
        pred_masks=targets.gt_masks.tensor,
        scores=torch.ones(len(targets)),
    )


def evaluate_perfect_predictions(evaluator: DatasetEvaluator, dataset: str) -> dict[str, Any]:
    evaluator.reset()
    for record in DatasetCatalog.get(dataset):
        evaluator.process([record], [{"instances": ground_truth_as_predictions(record)}])
    return evaluator.evaluate()


def test_coco(tiny_cfg: CfgNode, tiny_dataset: str) -> None:
    evaluator = build_evaluator(tiny_cfg, tiny_dataset)
    assert isinstance(evaluator, COCOEvaluator)
    results = evaluate_perfect_predictions(evaluator, tiny_dataset)
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP"] == pytest.approx(100)


def test_metrics_are_those_of_pycocotools(tiny_cfg: CfgNode, tiny_dataset: str) -> None:
    generator = torch.Generator().manual_seed(0)
    evaluators = [
        build_evaluator(tiny_cfg, tiny_dataset),
        COCOEvaluator(tiny_dataset, output_dir=tiny_cfg.OUTPUT_DIR, use_fast_impl=False),
    ]
    for evaluator in evaluators:
        evaluator.reset()
    for record in DatasetCatalog.get(tiny_dataset):
        instances = ground_truth_as_predictions(record)
        count = len(instances)
        instances.pred_boxes.tensor += 6 * torch.randn(count, 4, generator=generator)
        instances.pred_masks = instances.pred_masks.roll(3, dims=2)
        instances.scores = torch.rand(count, generator=generator)
        for evaluator in evaluators:
            evaluator.process([record], [{"instances": instances}])
    ours, official = (evaluator.evaluate() for evaluator in evaluators)
    assert 0 < official["segm"]["AP"] < 95
    for task in ("bbox", "segm"):
        assert ours[task] == pytest.approx(official[task], abs=1e-9, nan_ok=True)


def test_image_ids_may_be_text(tiny_cfg: CfgNode, tiny_dataset: str, tmp_path: Path) -> None:
    content = json.loads(Path(MetadataCatalog.get(tiny_dataset).json_file).read_text())
    for image in content["images"]:
        image["id"] = f"image {image['id']}"
    for annotation in content["annotations"]:
        annotation["image_id"] = f"image {annotation['image_id']}"
    (tmp_path / "text.json").write_text(json.dumps(content))
    image_root = MetadataCatalog.get(tiny_dataset).image_root
    register_coco_instances("tiny_text", {}, str(tmp_path / "text.json"), image_root)
    try:
        evaluator = build_evaluator(tiny_cfg, "tiny_text")
        results = evaluate_perfect_predictions(evaluator, "tiny_text")
        assert results["segm"]["AP"] == pytest.approx(100)
    finally:
        DatasetCatalog.remove("tiny_text")
        MetadataCatalog.remove("tiny_text")


def test_unknown_dataset_type_is_named(tiny_cfg: CfgNode) -> None:
    MetadataCatalog.get("odd_dataset").evaluator_type = "odd"
    with pytest.raises(UserError, match="'odd_dataset'.*'odd'.*'coco', 'lvis'"):
        build_evaluator(tiny_cfg, "odd_dataset")


def test_lvis(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    segmentation = [[10.0, 10.0, 50.0, 10.0, 50.0, 40.0, 10.0, 40.0]]
    annotation = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [10, 10, 40, 30],
        "area": 1200,
        "segmentation": segmentation,
    }
    image = {
        "id": 1,
        "height": 64,
        "width": 64,
        "not_exhaustive_category_ids": [],
        "neg_category_ids": [],
    }
    category = {"id": 1, "name": "thing", "frequency": "f"}
    content = {"images": [image], "annotations": [annotation], "categories": [category]}
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    MetadataCatalog.get("tiny_lvis").set(
        evaluator_type="lvis", json_file=str(tmp_path / "lvis.json"), thing_classes=["thing"]
    )
    evaluator = build_evaluator(tiny_cfg, "tiny_lvis")
    assert isinstance(evaluator, LVISEvaluator)
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 10:40, 10:50] = True
    prediction = Instances(
        (64, 64),
        pred_boxes=Boxes(torch.tensor([[10.0, 10.0, 50.0, 40.0]])),
        pred_classes=torch.tensor([0]),
        pred_masks=mask,
        scores=torch.ones(1),
    )
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": prediction}])
    assert evaluator.evaluate()["segm"]["AP"] == pytest.approx(100)


@pytest.fixture
def tiny_cityscapes(tmp_path: Path) -> Iterator[str]:
    """Three images of several classes, in the dataset's own layout."""
    write_cityscapes(tmp_path)
    image_dir, gt_dir = tmp_path / "leftImg8bit" / "val", tmp_path / "gtFine" / "val"
    dataset = "tiny_cityscapes"
    DatasetCatalog.register(
        dataset,
        lambda: load_cityscapes_instances(
            str(image_dir), str(gt_dir), from_json=False, to_polygons=False
        ),
    )
    MetadataCatalog.get(dataset).set(
        evaluator_type="cityscapes_instance",
        gt_dir=str(gt_dir),
        image_dir=str(image_dir),
        thing_classes=MetadataCatalog.get("cityscapes_fine_instance_seg_val").thing_classes,
    )
    yield dataset
    DatasetCatalog.remove(dataset)
    MetadataCatalog.remove(dataset)


def test_cityscapes(tiny_cfg: CfgNode, tiny_cityscapes: str) -> None:
    evaluator = build_evaluator(tiny_cfg, tiny_cityscapes)
    assert isinstance(evaluator, CityscapesInstanceEvaluator)
    classes = {
        annotation["category_id"]
        for record in DatasetCatalog.get(tiny_cityscapes)
        for annotation in record["annotations"]
    }
    assert len(classes) >= 3
    results = evaluate_perfect_predictions(evaluator, tiny_cityscapes)
    assert results["segm"]["AP"] == pytest.approx(100)


def test_comparison_shows_truth_and_confident_predictions_side_by_side(tiny_dataset: str) -> None:
    record = DatasetCatalog.get(tiny_dataset)[0]
    metadata = MetadataCatalog.get(tiny_dataset)
    predictions = ground_truth_as_predictions(record)
    picture = draw_comparison(record, predictions, metadata, scale=2.0)
    assert picture.shape == (2 * record["height"], 4 * record["width"], 3)
    predictions.scores[:] = 0.1
    unsure = draw_comparison(record, predictions, metadata, scale=2.0)
    middle = picture.shape[1] // 2
    # Nothing is drawn on the right, so that it is what was photographed, up to interpolation.
    image = read_image(record["file_name"], "RGB")
    plain = cv2.resize(image, (middle, middle)).astype(float)
    assert np.abs(unsure[:, middle:] - plain).mean() < 5
    for half in (picture[:, :middle], picture[:, middle:], unsure[:, :middle]):
        assert np.abs(half - plain).mean() > 10
