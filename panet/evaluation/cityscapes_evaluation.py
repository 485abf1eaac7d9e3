"""Cityscapes' evaluator for today's numpy."""

from typing import Any

import detectron2.evaluation

from panet.compat import cityscapesscripts


class CityscapesInstanceEvaluator(detectron2.evaluation.CityscapesInstanceEvaluator):
    """detectron2's evaluator, see :mod:`panet.compat.cityscapesscripts`."""

    def evaluate(self) -> dict[str, Any] | None:
        with cityscapesscripts.instance_evaluation():
            return super().evaluate()
