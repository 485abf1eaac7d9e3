"""Cityscapes evaluator compatible with current numpy versions."""

from typing import Any

import detectron2.evaluation

from panet.compat import cityscapesscripts


class CityscapesInstanceEvaluator(detectron2.evaluation.CityscapesInstanceEvaluator):
    """detectron2's evaluator with the patches of :mod:`panet.compat.cityscapesscripts`."""

    def evaluate(self) -> dict[str, Any] | None:
        with cityscapesscripts.instance_evaluation():
            return super().evaluate()
