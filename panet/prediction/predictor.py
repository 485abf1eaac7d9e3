"""Python interface for prediction."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import Instances

from panet.checkpoint import PUBLISHED
from panet.config import load_config
from panet.config_files import find_config_file
from panet.data.availability import CLASS_SECTIONS
from panet.deployment import check_weights, load_trained_model
from panet.evaluation.tta.views import view_sizes
from panet.prepare import prepare
from panet.utils.errors import UserError

from .annotated_image import draw
from .batches import group_alike
from .coco_results import to_detections
from .media import Picture, UnreadableImageError

Prepared = dict[str, Any]
"""Model input: resized "image", (3, H', W'), uint8, and the original "height" and "width"."""


def prediction_config(
    name_or_path: str,
    weights: str = "",
    score_threshold: float | None = None,
    overrides: Sequence[str] = (),
) -> CfgNode:
    """Load the configuration of a trained instance detection model.

    Args:
        name_or_path: a name from :func:`panet.model_zoo.list_configs`, or the path of a file.
        weights: checkpoint file; "" for the published weights of a configuration that has some,
            see :func:`panet.model_zoo.get_checkpoint_url`, else for its ``MODEL.WEIGHTS``.
        score_threshold: minimum score of instances; None for that of the configuration.
        overrides: alternating keys and values.

    Raises:
        UserError: if the configuration does not exist, a value is invalid, there are no weights,
            or the model does not detect instances or needs proposal files.
    """
    cfg = prepare(load_config(find_config_file(name_or_path), overrides))
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture not in CLASS_SECTIONS:
        raise UserError(
            f"MODEL.META_ARCHITECTURE is {architecture!r}, which does not detect instances; it "
            f"must be one of {', '.join(map(repr, CLASS_SECTIONS))}."
        )
    if cfg.MODEL.LOAD_PROPOSALS:
        raise UserError(
            "MODEL.LOAD_PROPOSALS is True, so the model needs proposal files of a dataset; use "
            "the configuration of a model with an RPN."
        )
    if not weights and name_or_path in PUBLISHED and "MODEL.WEIGHTS" not in overrides:
        weights = PUBLISHED[name_or_path].weights
    if weights:
        cfg.MODEL.WEIGHTS = weights
    check_weights(cfg)
    if score_threshold is not None:
        if not 0 <= score_threshold <= 1:
            raise UserError(f"The score threshold is {score_threshold}; it must be from 0 to 1.")
        cfg.MODEL[CLASS_SECTIONS[architecture]].SCORE_THRESH_TEST = float(score_threshold)
    cfg.freeze()
    return cfg


class Predictor:
    """A trained model for images given as arrays.

    Attributes:
        categories: "id" and "name" of the model's classes, in class order.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """
        Args:
            cfg: configuration from :func:`prediction_config`.

        Raises:
            UserError: if ``MODEL.WEIGHTS`` cannot be loaded or does not match the model.
        """
        self.model, self.categories = load_trained_model(cfg)
        backbone: Any = getattr(self.model, "model", self.model).backbone
        self._divisor = max(1, int(backbone.size_divisibility))
        self._cfg = cfg
        shorter = 0 if cfg.TEST.AUG.ENABLED else cfg.INPUT.MIN_SIZE_TEST  # TTA resizes itself
        self._resize = ResizeShortestEdge([shorter, shorter], cfg.INPUT.MAX_SIZE_TEST)
        self._is_rgb = cfg.INPUT.FORMAT == "RGB"

    @classmethod
    def from_name(
        cls,
        name_or_path: str,
        weights: str = "",
        score_threshold: float | None = None,
        overrides: Sequence[str] = (),
    ) -> "Predictor":
        """Build a predictor; see :func:`prediction_config` for arguments and exceptions."""
        return cls(prediction_config(name_or_path, weights, score_threshold, overrides))

    @property
    def classes(self) -> list[str]:
        """Class names in the order of ``pred_classes``."""
        return [category["name"] for category in self.categories]

    def __call__(self, image: Picture) -> Instances:
        """Detect instances in one image; see :meth:`predict`."""
        return self.predict([image])[0]

    def predict(self, images: Sequence[Picture], batch_size: int = 1) -> list[Instances]:
        """Detect instances in several images.

        Args:
            images: each (H, W, 3), BGR, uint8, as from ``cv2.imread``; sizes may differ.
            batch_size: number of images of similar size in a batch. It does not change the results
                beyond rounding.

        Returns:
            The instances in each image, on the CPU, by descending score: "pred_boxes" in pixels of
            the image, "scores", "pred_classes" and, if the model has masks, "pred_masks",
            (N, H, W), bool.

        Raises:
            UserError: if an array is not such an image.
        """
        batches = group_alike(
            enumerate(map(self.prepare, images)),
            key=lambda item: self.padded_size(item[1]),
            size=batch_size,
            max_waiting=len(images),
        )
        results: dict[int, Instances] = {}
        for batch in batches:
            indices, prepared = zip(*batch)
            results.update(zip(indices, self.infer(prepared)))
        return [results[index] for index in range(len(images))]

    def prepare(self, image: Picture) -> Prepared:
        """Resize an image for :meth:`infer`. This method is thread-safe.

        Raises:
            UnreadableImageError: if the image is so long that its resized shorter side is 0.
            UserError: if the array is not (H, W, 3), uint8.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise UserError(
                f"The image has shape {image.shape} and dtype {image.dtype}; it must be "
                "(height, width, 3), uint8, in the order blue, green, red."
            )
        height, width = image.shape[:2]
        if self._smallest_side(height, width) < 1:
            raise UnreadableImageError(
                f"the image has {width} x {height} pixels and would be resized to an empty image"
            )
        if self._is_rgb:
            image = image[:, :, ::-1]
        image = self._resize.get_transform(image).apply_image(image)
        planes = np.ascontiguousarray(image.transpose(2, 0, 1))
        return {"image": torch.as_tensor(planes), "height": height, "width": width}

    def _smallest_side(self, height: int, width: int) -> int:
        """Shortest side, in pixels, of the resized image or its TTA views."""
        if self._cfg.TEST.AUG.ENABLED:
            return min(min(size) for size in view_sizes(self._cfg, height, width))
        shorter, longer = self._cfg.INPUT.MIN_SIZE_TEST, self._cfg.INPUT.MAX_SIZE_TEST
        if shorter == 0:  # disables resizing
            return min(height, width)
        return min(ResizeShortestEdge.get_output_shape(height, width, shorter, longer))

    def padded_size(self, prepared: Prepared) -> tuple[int, int]:
        """Return height and width of the padded network input.

        Only images with equal padded sizes may share a batch: additional padding changes the
        results, through group norms and at the image border.
        """
        height, width = (
            -(-side // self._divisor) * self._divisor for side in prepared["image"].shape[1:]
        )
        return height, width

    @torch.no_grad()
    def infer(self, batch: Sequence[Prepared]) -> list[Instances]:
        """Detect instances in images from :meth:`prepare`, all of the same :meth:`padded_size`."""
        return [output["instances"].to("cpu") for output in self.model(list(batch))]

    def detections(self, instances: Instances) -> list[dict[str, Any]]:
        """Convert to COCO results, see :func:`panet.prediction.coco_results.to_detections`."""
        return to_detections(instances, self.categories)

    def draw(self, image: Picture, instances: Instances) -> Picture:
        """Draw instances on a copy of the image, (H, W, 3), BGR."""
        return draw(image, self.detections(instances))
