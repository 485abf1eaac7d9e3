"""Make detectron2's ``COCOEvaluator`` use another implementation of the COCO metrics.

Seen in sal-detectron2 0.7.2 and in detectron2 at commit 02b5c4e: a flag selects pycocotools or
detectron2's compiled extension; there is no way to pass another implementation. Remove this file
when the evaluator takes the implementation as an argument.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from detectron2.evaluation import coco_evaluation

from .patching import patched


@contextmanager
def metrics_by(implementation: Callable[..., Any]) -> Iterator[None]:
    """Replace pycocotools' ``COCOeval`` in evaluators with ``use_fast_impl=False``.

    Args:
        implementation: has the interface of ``COCOeval`` and supports any limit of detections per
            image.
    """
    with (
        patched(coco_evaluation, "COCOeval", implementation),
        patched(coco_evaluation, "COCOevalMaxDets", implementation),  # for limits other than 100
    ):
        yield
