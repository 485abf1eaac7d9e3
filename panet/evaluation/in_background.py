"""Evaluators that work while the model does."""

from collections.abc import Sequence
from typing import Any

from detectron2.evaluation import DatasetEvaluator

from panet.utils.background import Background


class InBackground(DatasetEvaluator):
    """Has an evaluator process an image while the model computes the next one.

    The order, and so the result, stays the same. What it raises comes one image later.
    """

    def __init__(self, evaluator: DatasetEvaluator) -> None:
        """
        Args:
            evaluator: to be used by nobody else from now on.
        """
        self._evaluator = evaluator
        self._background = Background()

    def reset(self) -> None:
        self._background.wait()
        self._evaluator.reset()

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        self._background.submit(self._evaluator.process, inputs, outputs)

    def evaluate(self) -> dict[str, Any] | None:
        self._background.wait()
        results: dict[str, Any] | None = self._evaluator.evaluate()
        return results
