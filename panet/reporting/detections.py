"""The ground truth of a dataset and a run's predictions for it, as COCO's evaluation takes them."""

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
"""Where detectron2's evaluator leaves the predictions in the folder of a run."""


@dataclass(frozen=True)
class Detections:
    """Objects and predictions, with images and objects numbered from 1 on.

    Attributes:
        dataset: its registered name.
        content: its images, objects and categories in COCO's format. "file_name" is the whole path.
        predictions: in the format of COCO's results.
        has_masks: whether both sides have them.
    """

    dataset: str
    content: dict[str, Any]
    predictions: list[dict[str, Any]]
    has_masks: bool

    @property
    def categories(self) -> dict[int, str]:
        """The names of the classes by their number in the dataset, in the order of these."""
        by_id = {category["id"]: category["name"] for category in self.content["categories"]}
        return dict(sorted(by_id.items()))


def read_detections(folder: Path, cfg: CfgNode) -> Detections:
    """Read what a run predicts for its test data.

    Args:
        folder: of the run.
        cfg: keys ``DATASETS.TEST``, of which the predictions belong to the last, and ``MODEL``.

    Raises:
        UserError: if the run has no predictions in COCO's format, if its test data is not there
            or has no annotations, or if the two do not belong together.
    """
    file = folder / PREDICTIONS
    if not file.is_file():
        raise UserError(
            f"The run has no {PREDICTIONS}; evaluate it with train_net.py --eval-only, which "
            "leaves one for every dataset with COCO's metrics."
        )
    if not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST is empty; name the dataset that was evaluated.")
    dataset = cfg.DATASETS.TEST[-1]
    content = _read_ground_truth(cfg, dataset)
    try:
        predictions = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}); evaluate the run again.") from error
    return _number(dataset, content, predictions)


def _read_ground_truth(cfg: CfgNode, dataset: str) -> dict[str, Any]:
    check_datasets(cfg, (dataset,))
    DatasetCatalog.get(dataset)  # which draws the embedded one
    evaluator = build_evaluator(cfg, dataset)
    if not isinstance(evaluator, COCOEvaluator):
        raise UserError(f"The dataset {dataset} is not evaluated with COCO's metrics.")
    content: dict[str, Any] = json.loads(Path(evaluator.json_file).read_text())
    if "annotations" not in content:
        raise UserError(f"The dataset {dataset} has no annotations to compare with.")
    return content


def _number(
    dataset: str, content: Mapping[str, Any], predictions: list[dict[str, Any]]
) -> Detections:
    # COCO's evaluation takes neither images named by text nor an object with the number 0.
    numbers = {image["id"]: i for i, image in enumerate(content["images"], 1)}
    strangers = [item["image_id"] for item in predictions if item["image_id"] not in numbers]
    if strangers:
        raise UserError(
            f"{PREDICTIONS} has the image {strangers[0]!r}, which the dataset {dataset} has not; "
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
