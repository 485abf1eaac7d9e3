"""LVIS evaluator compatible with current numpy versions."""

from typing import Any

import detectron2.evaluation

from panet.compat import lvis_api

from .run_lengths import QuickEncoding


class LVISEvaluator(QuickEncoding, detectron2.evaluation.LVISEvaluator):
    """detectron2's evaluator with the patches of :mod:`panet.compat.lvis_api`."""

    def evaluate(self) -> dict[str, Any]:
        with lvis_api.numpy_float():
            return super().evaluate()
