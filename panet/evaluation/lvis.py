"""LVIS's evaluator for today's numpy."""

from typing import Any
from unittest import mock

import detectron2.evaluation
import numpy as np

from .run_lengths import QuickEncoding


class LVISEvaluator(QuickEncoding, detectron2.evaluation.LVISEvaluator):
    """detectron2's evaluator, whose package ``lvis`` names types that numpy 1.24 removed."""

    def evaluate(self) -> dict[str, Any]:
        with mock.patch.object(np, "float", float, create=True):
            return super().evaluate()
