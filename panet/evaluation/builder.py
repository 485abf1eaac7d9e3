"""Choosing the evaluator of a dataset."""

from collections.abc import Callable
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from panet.utils.errors import UserError

from .cityscapes_evaluation import CityscapesInstanceEvaluator
from .coco_evaluation import COCO_MAX_DETECTIONS, COCOEvaluator
from .lvis_evaluation import LVISEvaluator
from .mapillary_evaluation import MapillaryVistasEvaluator


def _coco(dataset_name: str, output_dir: str, max_detections: int) -> DatasetEvaluator:
    return COCOEvaluator(dataset_name, output_dir, max_dets_per_image=max_detections)


def _lvis(dataset_name: str, output_dir: str, max_detections: int) -> DatasetEvaluator:
    return LVISEvaluator(dataset_name, output_dir=output_dir)


def _cityscapes_instance(
    dataset_name: str, output_dir: str, max_detections: int
) -> DatasetEvaluator:
    return CityscapesInstanceEvaluator(dataset_name)


def _mapillary_vistas(dataset_name: str, output_dir: str, max_detections: int) -> DatasetEvaluator:
    return MapillaryVistasEvaluator(dataset_name, output_dir, max_dets_per_image=max_detections)


_EVALUATORS: dict[str, Callable[[str, str, int], DatasetEvaluator]] = {
    "coco": _coco,
    "lvis": _lvis,
    "cityscapes_instance": _cityscapes_instance,
    "mapillary_vistas": _mapillary_vistas,
}


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """The evaluator for the ``evaluator_type`` in the dataset's metadata.

    Results that it saves go to ``inference`` under ``OUTPUT_DIR``. Evaluators with COCO's metrics
    count the 100 detections of an image that these are defined for, or all of a model that gives
    more, ``TEST.DETECTIONS_PER_IMAGE``.

    Raises:
        UserError: if the dataset has no such type, or one that this project has no evaluator for.
    """
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if evaluator_type not in _EVALUATORS:
        raise UserError(
            f"Dataset {dataset_name!r} has the evaluator_type {evaluator_type!r} in its metadata; "
            f"there are evaluators for {', '.join(map(repr, _EVALUATORS))}."
        )
    output_dir = str(Path(cfg.OUTPUT_DIR) / "inference")
    max_detections = max(COCO_MAX_DETECTIONS, cfg.TEST.DETECTIONS_PER_IMAGE)
    return _EVALUATORS[evaluator_type](dataset_name, output_dir, max_detections)
