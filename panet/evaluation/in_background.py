"""Evaluation concurrent with inference."""

from collections.abc import Sequence
from typing import Any

from detectron2.evaluation import DatasetEvaluator

from panet.utils.background import Background


class InBackground(DatasetEvaluator):
    """Run an evaluator's ``process`` in a background thread during inference on the next image.

    The order of calls, and so the result, is unchanged. An exception is raised one image later.
    """

    def __init__(self, evaluator: DatasetEvaluator) -> None:
        """
        Args:
            evaluator: the wrapped evaluator; it must not be used elsewhere.
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
