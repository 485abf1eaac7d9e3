"""Choosing the evaluator of a dataset."""

from collections.abc import Callable
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from panet.errors import InputError

from .cityscapes import CityscapesInstanceEvaluator
from .coco import COCOEvaluator
from .lvis import LVISEvaluator
from .mapillary import MapillaryVistasEvaluator


def _coco(dataset_name: str, output_dir: str) -> DatasetEvaluator:
    return COCOEvaluator(dataset_name, output_dir=output_dir)


def _lvis(dataset_name: str, output_dir: str) -> DatasetEvaluator:
    return LVISEvaluator(dataset_name, output_dir=output_dir)


def _cityscapes_instance(dataset_name: str, output_dir: str) -> DatasetEvaluator:
    return CityscapesInstanceEvaluator(dataset_name)


def _mapillary_vistas(dataset_name: str, output_dir: str) -> DatasetEvaluator:
    return MapillaryVistasEvaluator(dataset_name, output_dir)


_EVALUATORS: dict[str, Callable[[str, str], DatasetEvaluator]] = {
    "coco": _coco,
    "lvis": _lvis,
    "cityscapes_instance": _cityscapes_instance,
    "mapillary_vistas": _mapillary_vistas,
}


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """The evaluator for the ``evaluator_type`` in the dataset's metadata.

    Results that it saves go to ``inference`` under ``OUTPUT_DIR``.

    Raises:
        InputError: if the dataset has no such type, or one that this project has no evaluator for.
    """
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if evaluator_type not in _EVALUATORS:
        raise InputError(
            f"Dataset {dataset_name!r} has the evaluator_type {evaluator_type!r} in its metadata; "
            f"there are evaluators for {', '.join(map(repr, _EVALUATORS))}."
        )
    return _EVALUATORS[evaluator_type](dataset_name, str(Path(cfg.OUTPUT_DIR) / "inference"))
