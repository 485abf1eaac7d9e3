"""detectron2's ``COCOEvaluator``, which knows two implementations of COCO's metrics and no others.

Seen in sal-detectron2 0.7.2 and in detectron2's sources, commit 02b5c4e: beside pycocotools' it
takes a fast one of its compiled extension, by a flag. This file can go once the evaluator takes an
implementation as an argument.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from detectron2.evaluation import coco_evaluation

from .patching import patched


@contextmanager
def metrics_by(implementation: Callable[..., Any]) -> Iterator[None]:
    """Have evaluators without the fast implementation compute the metrics by another one.

    Args:
        implementation: used as pycocotools' ``COCOeval``, with any limit of detections an image.
    """
    with (
        patched(coco_evaluation, "COCOeval", implementation),
        patched(coco_evaluation, "COCOevalMaxDets", implementation),  # of other limits than 100
    ):
        yield
