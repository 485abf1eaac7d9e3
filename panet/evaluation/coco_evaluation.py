"""COCO's evaluator with a fast implementation of its metrics."""

from collections.abc import Collection
from typing import Any

import detectron2.evaluation
from faster_coco_eval import COCOeval_faster

from panet.compat.detectron2_coco import metrics_by

from .run_lengths import QuickEncoding

COCO_MAX_DETECTIONS = 100
"""How many detections of an image COCO's metrics count, those of the highest scores."""


class COCOEvaluator(QuickEncoding, detectron2.evaluation.COCOEvaluator):
    """detectron2's evaluator, its metrics from ``faster-coco-eval``.

    They are those of pycocotools, several times as fast; detectron2's own fast implementation
    needs its compiled extension. Datasets whose images have other ids than numbers, which that
    package does not take, get pycocotools' own.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None, **kwargs: Any) -> None:
        """
        Args:
            dataset_name: registered, in COCO's format or to be converted to it.
            output_dir: where to save the predictions.
            kwargs: others of detectron2's evaluator.
        """
        super().__init__(dataset_name, output_dir=output_dir, use_fast_impl=False, **kwargs)

    @property
    def json_file(self) -> str:
        """The path of the ground truth in COCO's format."""
        return self._metadata.json_file

    def evaluate(self, img_ids: Collection[int] | None = None) -> dict[str, Any] | None:
        if not all(isinstance(image_id, int) for image_id in self._coco_api.imgs):
            return super().evaluate(img_ids)
        with metrics_by(COCOeval_faster):
            return super().evaluate(img_ids)
