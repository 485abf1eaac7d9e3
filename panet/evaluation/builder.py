"""Construction of the evaluator of a dataset."""

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

_EVALUATORS: dict[str, Callable[[str, str, int], DatasetEvaluator]] = {
    "coco": lambda name, folder, limit: COCOEvaluator(name, folder, max_dets_per_image=limit),
    "lvis": lambda name, folder, _: LVISEvaluator(name, output_dir=folder),
    "cityscapes_instance": lambda name, _folder, _limit: CityscapesInstanceEvaluator(name),
    "mapillary_vistas": lambda name, folder, limit: MapillaryVistasEvaluator(
        name, folder, max_dets_per_image=limit
    ),
}
"""By evaluator_type; the arguments are dataset name, output directory and detections per image."""


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """Build the evaluator for the ``evaluator_type`` in the dataset's metadata.

    Results are saved to ``OUTPUT_DIR/inference``. COCO's metrics count the standard 100 detections
    per image, or ``TEST.DETECTIONS_PER_IMAGE`` if that is larger.

    Raises:
        UserError: if the dataset has no ``evaluator_type`` or an unsupported one.
    """
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if evaluator_type not in _EVALUATORS:
        raise UserError(
            f"Dataset {dataset_name!r} has the evaluator_type {evaluator_type!r} in its metadata; "
            f"it must be one of {', '.join(map(repr, _EVALUATORS))}."
        )
    output_dir = str(Path(cfg.OUTPUT_DIR) / "inference")
    max_detections = max(COCO_MAX_DETECTIONS, cfg.TEST.DETECTIONS_PER_IMAGE)
    return _EVALUATORS[evaluator_type](dataset_name, output_dir, max_detections)
