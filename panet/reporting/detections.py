"""Ground truth and predictions of a run in COCO's format."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from panet.data.availability import check_datasets
from panet.evaluation import build_evaluator
from panet.evaluation.coco_evaluation import COCOEvaluator
from panet.utils.errors import UserError

PREDICTIONS = Path("inference", "coco_instances_results.json")
"""Path of the predictions of detectron2's evaluator within the directory of a run."""


@dataclass(frozen=True)
class Detections:
    """Ground truth and predictions, with image and annotation ids that count from 1.

    Attributes:
        dataset: registered name of the dataset.
        content: images, annotations and categories in COCO's format. "file_name" is the full path.
        predictions: predictions in COCO's result format.
        has_masks: whether all annotations and predictions have masks.
    """

    dataset: str
    content: dict[str, Any]
    predictions: list[dict[str, Any]]
    has_masks: bool

    @property
    def categories(self) -> dict[int, str]:
        """Class names by category id, in ascending order of the ids."""
        return dict(sorted((item["id"], item["name"]) for item in self.content["categories"]))


def read_detections(folder: Path, cfg: CfgNode) -> Detections:
    """Read the predictions of a run for its test data.

    Args:
        folder: directory of the run.
        cfg: configuration with the keys ``MODEL`` and ``DATASETS.TEST``, whose last dataset the
            predictions belong to.

    Raises:
        UserError: if the run has no predictions in COCO's format, if its test data does not exist
            or has no annotations, or if the predictions are for another dataset.
    """
    file = folder / PREDICTIONS
    if not file.is_file():
        raise UserError(
            f"The run has no {PREDICTIONS}; evaluate it with panet eval, which writes this file "
            "for datasets with COCO's metrics."
        )
    if not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST is empty; name the dataset that was evaluated.")
    dataset = cfg.DATASETS.TEST[-1]
    content = _read_ground_truth(cfg, dataset)
    try:
        predictions = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}); evaluate the run again.") from error
    return _renumber(dataset, content, predictions)


def _read_ground_truth(cfg: CfgNode, dataset: str) -> dict[str, Any]:
    check_datasets(cfg, (dataset,))
    DatasetCatalog.get(dataset)  # generates the files of the synthetic dataset
    evaluator = build_evaluator(cfg, dataset)
    if not isinstance(evaluator, COCOEvaluator):
        raise UserError(
            f"The dataset {dataset} is not evaluated with COCO's metrics, which the report needs."
        )
    content: dict[str, Any] = json.loads(Path(evaluator.json_file).read_text())
    if "annotations" not in content:
        raise UserError(f"The dataset {dataset} has no annotations to compare with.")
    return content


def _renumber(
    dataset: str, content: Mapping[str, Any], predictions: list[dict[str, Any]]
) -> Detections:
    # COCO's evaluation supports neither string image ids nor annotation id 0.
    numbers = {image["id"]: i for i, image in enumerate(content["images"], 1)}
    unknown = [item["image_id"] for item in predictions if item["image_id"] not in numbers]
    if unknown:
        raise UserError(
            f"{PREDICTIONS} has the image {unknown[0]!r}, which is not in the dataset {dataset}; "
            "set DATASETS.TEST to the dataset that was evaluated last."
        )
    root = MetadataCatalog.get(dataset).get("image_root", "")
    images = [
        {**image, "id": i, "file_name": os.path.join(root, image["file_name"])}  # noqa: PTH118
        for i, image in enumerate(content["images"], 1)
    ]
    objects = [
        {**annotation, "id": i, "image_id": numbers[annotation["image_id"]]}
        for i, annotation in enumerate(content["annotations"], 1)
    ]
    numbered = [{**item, "image_id": numbers[item["image_id"]]} for item in predictions]
    has_masks = all("segmentation" in item for item in (*objects, *numbered))
    return Detections(
        dataset,
        {"images": images, "annotations": objects, "categories": content["categories"]},
        numbered,
        has_masks,
    )
