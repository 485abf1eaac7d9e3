"""TensorBoard visualizations of a few test images at every evaluation during training."""

import logging
from typing import Any

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage

from panet.utils.errors import UserError

from .pictures import draw_comparison

logger = logging.getLogger(__name__)


class PictureRecorder(DatasetEvaluator):
    """Draw predictions for the first images of a dataset beside their ground truth.

    The visualizations are written to the current event storage and from there to TensorBoard;
    without an event storage nothing is drawn. In distributed evaluation only the main process
    draws, and only images of its own share. Errors are logged and do not stop the evaluation.
    """

    def __init__(
        self,
        dataset_name: str,
        num_pictures: int,
        size: int = 512,
        *,
        key: str = "TEST.NUM_PICTURES",
    ) -> None:
        """
        Args:
            dataset_name: name of a registered dataset.
            num_pictures: number of images to draw.
            size: longer side of the image in its visualization, in pixels.
            key: configuration key of ``num_pictures``, for error messages.

        Raises:
            UserError: if ``num_pictures`` is negative.
        """
        if num_pictures < 0:
            raise UserError(f"{key} is {num_pictures}; it must be 0 or more.")
        self.dataset_name = dataset_name
        self.num_pictures = num_pictures
        self.size = size
        self._records: dict[str, dict[str, Any]] | None = None
        self._active = False

    def reset(self) -> None:
        self._active = self.num_pictures > 0 and comm.is_main_process() and has_event_storage()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Draw the images with a known "file_name" whose outputs have "instances"."""
        if not self._active:
            return
        try:
            for image, output in zip(inputs, outputs):
                self._record(image["file_name"], output)
        except Exception:  # drawing must never stop the evaluation
            logger.warning("Skipping the visualizations for TensorBoard:", exc_info=True)
            self._active = False

    def _record(self, file_name: str, output: dict[str, Any]) -> None:
        if self._records is None:
            # The test loader drops the ground truth.
            first = DatasetCatalog.get(self.dataset_name)[: self.num_pictures]
            self._records = {record["file_name"]: record for record in first}
        if file_name not in self._records or "instances" not in output:
            return
        record = self._records[file_name]
        instances = output["instances"]
        metadata = MetadataCatalog.get(self.dataset_name)
        scale = self.size / max(instances.image_size)
        picture = draw_comparison(record, instances, metadata, scale=scale)
        name = f"{self.dataset_name}/{list(self._records).index(file_name):03d}"
        get_event_storage().put_image(name, torch.from_numpy(picture).permute(2, 0, 1))

    def evaluate(self) -> dict[str, Any]:
        return {}
