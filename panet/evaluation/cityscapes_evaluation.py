"""Cityscapes evaluator compatible with current numpy versions."""

from typing import Any

import detectron2.evaluation

from panet.compat import cityscapesscripts
from panet.compat.detectron2_cityscapes import find_under_internal_name


class CityscapesInstanceEvaluator(detectron2.evaluation.CityscapesInstanceEvaluator):
    """detectron2's evaluator with the patches of :mod:`panet.compat.cityscapesscripts`."""

    def __init__(self, dataset_name: str) -> None:
        """
        Args:
            dataset_name: e.g. "cityscapes_fine_instance_seg_val".
        """
        find_under_internal_name()
        super().__init__(dataset_name)

    def evaluate(self) -> dict[str, Any] | None:
        with cityscapesscripts.instance_evaluation():
            return super().evaluate()
