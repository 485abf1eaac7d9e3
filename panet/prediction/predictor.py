"""From images to instances, in Python."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import Instances

from panet.config import load_config
from panet.config_files import find_config_file
from panet.data.availability import CLASS_SECTIONS
from panet.deployment import check_weights, load_trained_model
from panet.evaluation.tta.views import view_sizes
from panet.prepare import prepare
from panet.utils.errors import UserError

from .annotated_image import draw
from .coco_results import to_detections
from .media import Picture, UnreadableImageError

Prepared = dict[str, Any]
"""An image as models take it: "image", (3, H', W'), uint8, resized, and its "height", "width"."""


def prediction_config(
    name_or_path: str,
    weights: str = "",
    score_threshold: float | None = None,
    overrides: Sequence[str] = (),
) -> CfgNode:
    """The configuration of a trained model that finds instances.

    Args:
        name_or_path: a name from :func:`panet.model_zoo.list_configs`, or the path of a file.
        weights: a file; "" for the configuration's ``MODEL.WEIGHTS``.
        score_threshold: instances with lower scores are left out; None for the configuration's.
        overrides: keys and values in turn.

    Raises:
        UserError: if there is no such configuration, a value is wrong, no weights are named, or
            its model finds no instances in images alone.
    """
    cfg = prepare(load_config(find_config_file(name_or_path), overrides))
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture not in CLASS_SECTIONS:
        raise UserError(
            f"MODEL.META_ARCHITECTURE is {architecture!r}, which finds no instances; it must be "
            f"one of {', '.join(map(repr, CLASS_SECTIONS))}."
        )
    if cfg.MODEL.LOAD_PROPOSALS:
        raise UserError(
            "MODEL.LOAD_PROPOSALS is True: this model reads proposals from files made for a "
            "dataset; take the configuration of one with an RPN."
        )
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
    """A trained model that takes images as arrays.

    Attributes:
        categories: of the model's classes, in their order: "id" and "name".
    """

    def __init__(self, cfg: CfgNode) -> None:
        """
        Args:
            cfg: as from :func:`prediction_config`.

        Raises:
            UserError: if ``MODEL.WEIGHTS`` cannot be loaded, or does not fit.
        """
        self.model, self.categories = load_trained_model(cfg)
        backbone: Any = getattr(self.model, "model", self.model).backbone
        self._divisor = max(1, int(backbone.size_divisibility))
        self._cfg = cfg
        shorter = 0 if cfg.TEST.AUG.ENABLED else cfg.INPUT.MIN_SIZE_TEST  # it resizes itself
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
        """See :func:`prediction_config` for the arguments and what is raised."""
        return cls(prediction_config(name_or_path, weights, score_threshold, overrides))

    @property
    def classes(self) -> list[str]:
        """The names of what ``pred_classes`` counts."""
        return [category["name"] for category in self.categories]

    def __call__(self, image: Picture) -> Instances:
        """What is in one image; see :meth:`predict`."""
        return self.predict([image])[0]

    def predict(self, images: Sequence[Picture], batch_size: int = 1) -> list[Instances]:
        """What is in each of several images.

        Args:
            images: each (H, W, 3), BGR, uint8, as ``cv2.imread`` gives them; of any sizes.
            batch_size: how many of like size to compute at once. The results are the same but for
                rounding.

        Returns:
            For each image instances on the CPU, best first: "pred_boxes" in pixels of the image,
            "scores", "pred_classes" and, if the model has masks, "pred_masks", (N, H, W), bool.

        Raises:
            UserError: if an array is no such image.
        """
        groups: defaultdict[tuple[int, int], list[tuple[int, Prepared]]] = defaultdict(list)
        for index, image in enumerate(images):
            prepared = self.prepare(image)
            groups[self.padded_size(prepared)].append((index, prepared))
        found: dict[int, Instances] = {}
        for group in groups.values():
            for start in range(0, len(group), batch_size):
                indices, batch = zip(*group[start : start + batch_size])
                found.update(zip(indices, self.infer(batch)))
        return [found[index] for index in range(len(images))]

    def prepare(self, image: Picture) -> Prepared:
        """Resize an image for :meth:`infer`; several threads may do so at a time.

        Raises:
            UnreadableImageError: if it is so long that nothing would be left of its shorter side.
            UserError: if the array is not (H, W, 3), uint8.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise UserError(
                f"The image is an array {image.shape} of {image.dtype}; it must be "
                "(height, width, 3), uint8, in the order blue, green, red."
            )
        height, width = image.shape[:2]
        if self._smallest_side(height, width) < 1:
            raise UnreadableImageError(
                f"it has {width} x {height} pixels, of which resizing would leave nothing"
            )
        if self._is_rgb:
            image = image[:, :, ::-1]
        image = self._resize.get_transform(image).apply_image(image)
        planes = np.ascontiguousarray(image.transpose(2, 0, 1))
        return {"image": torch.as_tensor(planes), "height": height, "width": width}

    def _smallest_side(self, height: int, width: int) -> int:
        """In pixels, of an image of this size, or its smallest view, after resizing."""
        if self._cfg.TEST.AUG.ENABLED:
            return min(min(size) for size in view_sizes(self._cfg, height, width))
        sizes = self._cfg.INPUT
        if sizes.MIN_SIZE_TEST == 0:  # not to resize
            return min(height, width)
        return min(
            ResizeShortestEdge.get_output_shape(
                height, width, sizes.MIN_SIZE_TEST, sizes.MAX_SIZE_TEST
            )
        )

    def padded_size(self, prepared: Prepared) -> tuple[int, int]:
        """Height and width of what the network sees of an image.

        Only images that agree in it may share a batch: padding that an image does not have by
        itself reaches its results, through group norms and at its edges.
        """
        height, width = (
            -(-side // self._divisor) * self._divisor for side in prepared["image"].shape[1:]
        )
        return height, width

    @torch.no_grad()
    def infer(self, batch: Sequence[Prepared]) -> list[Instances]:
        """What is in images that :meth:`prepare` has made, all of one :meth:`padded_size`."""
        return [output["instances"].to("cpu") for output in self.model(list(batch))]

    def detections(self, instances: Instances) -> list[dict[str, Any]]:
        """Instances in COCO's format, see :func:`panet.prediction.coco_results.to_detections`."""
        return to_detections(instances, self.categories)

    def draw(self, image: Picture, instances: Instances) -> Picture:
        """A copy of the image, (H, W, 3), BGR, with the instances drawn on it."""
        return draw(image, self.detections(instances))
