"""TTA views of an image."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any

from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import DatasetMapperTTA
from detectron2.structures import Boxes, Instances
from fvcore.transforms import HFlipTransform, NoOpTransform, TransformList
from torch import Tensor

from panet.utils.errors import UserError

from .tiles import TileTransform, cut_tiles

Size = tuple[int, int]
"""Height and width in pixels."""

ViewMapper = Callable[[dict[str, Any]], list[dict[str, Any]]]
"""Maps a model input to the inputs of its TTA views, each with the "transforms" that made it."""


def build_view_mapper(cfg: CfgNode) -> ViewMapper:
    """Build the mapper for the TTA views of ``TEST.AUG``, or :func:`identity_view` without TTA.

    Raises:
        UserError: if a key has an invalid value, see :func:`check_options`.
    """
    check_options(cfg)
    options = cfg.TEST.AUG
    if not options.ENABLED:
        return identity_view

    def make(image: dict[str, Any]) -> list[dict[str, Any]]:
        tiles: Iterable[tuple[TileTransform | None, dict[str, Any]]] = [(None, image)]
        if options.WINDOW:
            tiles = cut_tiles(image, options.WINDOW, options.OVERLAP)
        views = []
        for crop, tile in tiles:
            sizes = shorter_edges(cfg, *tile["image"].shape[1:])
            augment = DatasetMapperTTA(sizes, options.MAX_SIZE, options.FLIP)
            before = TransformList([] if crop is None else [crop])
            views += [{**v, "transforms": before + v["transforms"]} for v in augment(tile)]
        return views

    return make


def check_options(cfg: CfgNode) -> None:
    """Check the values of all enabled TTA and voting options.

    Args:
        cfg: keys ``TEST.AUG``, ``TEST.BOX_VOTING`` and ``TEST.MASK_VOTING``.

    Raises:
        UserError: if a value is invalid.
    """
    options = cfg.TEST.AUG
    if options.BATCH_SIZE < 1:
        raise UserError(f"TEST.AUG.BATCH_SIZE is {options.BATCH_SIZE}; it must be at least 1.")
    for name in ("BOX_VOTING", "MASK_VOTING"):
        voting = cfg.TEST[name]
        if voting.ENABLED and not 0 <= voting.IOU <= 1:
            raise UserError(f"TEST.{name}.IOU is {voting.IOU}; it must be from 0 to 1.")
    if options.ENABLED:
        _check_views(options)


def _check_views(options: CfgNode) -> None:
    if not options.SCALES and (not options.MIN_SIZES or min(options.MIN_SIZES) < 1):
        raise UserError(
            f"TEST.AUG.MIN_SIZES is {tuple(options.MIN_SIZES)}; it must have at least one size, "
            "and all sizes must be at least 1."
        )
    if options.MAX_SIZE < 1:
        raise UserError(f"TEST.AUG.MAX_SIZE is {options.MAX_SIZE}; it must be at least 1.")
    if not all(scale > 0 for scale in options.SCALES):
        raise UserError(f"TEST.AUG.SCALES is {tuple(options.SCALES)}; all scales must be above 0.")
    if options.WINDOW < 0 or (options.WINDOW and not 0 <= options.OVERLAP < options.WINDOW):
        raise UserError(
            f"TEST.AUG.WINDOW is {options.WINDOW} and TEST.AUG.OVERLAP is {options.OVERLAP}; both "
            "must be at least 0, and OVERLAP must be smaller than WINDOW."
        )


def view_sizes(cfg: CfgNode, height: int, width: int) -> list[Size]:
    """Return the sizes of the TTA views of an image.

    Args:
        cfg: configuration with the keys ``TEST.AUG``.
        height, width: size of the image.
    """
    options = cfg.TEST.AUG
    if options.WINDOW:
        height, width = min(height, options.WINDOW), min(width, options.WINDOW)
    return [
        ResizeShortestEdge.get_output_shape(height, width, shorter, options.MAX_SIZE)
        for shorter in shorter_edges(cfg, height, width)
    ]


def shorter_edges(cfg: CfgNode, height: int, width: int) -> list[int]:
    """Return the shorter edges, in pixels, that an image or a tile is resized to."""
    scaled = [max(1, round(scale * min(height, width))) for scale in cfg.TEST.AUG.SCALES]
    return scaled or list(cfg.TEST.AUG.MIN_SIZES)


def identity_view(image: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the image as the only view."""
    return [{**image, "transforms": TransformList([NoOpTransform()])}]


def make_views(image: dict[str, Any], view_mapper: ViewMapper) -> list[dict[str, Any]]:
    """Make the TTA views of an image, with transformed proposals if it has any.

    Args:
        image: input of ``GeneralizedRCNN``.
        view_mapper: makes the views. Their "transforms" start from the given image, independent
            of the size of the result.
    """
    height, width = image["image"].shape[1:]
    views = view_mapper({**image, "height": height, "width": width})
    for view in views:
        transform_proposals(view)
    return views


def transform_proposals(view: dict[str, Any]) -> None:
    """Transform the image's "proposals", if any, to the coordinates of a view, in place."""
    if "proposals" not in view:
        return
    given: Instances = view["proposals"]
    height, width = view["image"].shape[1:]
    proposals = Instances((height, width), **given.get_fields())
    boxes = Boxes(transform_boxes(given.proposal_boxes.tensor, view["transforms"]))
    boxes.clip((height, width))
    proposals.proposal_boxes = boxes
    view["proposals"] = proposals[boxes.nonempty()]


def transform_boxes(boxes: Tensor, transforms: TransformList) -> Tensor:
    """Apply transforms to boxes, (N, 4)."""
    return boxes.new_tensor(transforms.apply_box(boxes.cpu().numpy())).reshape(-1, 4)


def map_back(
    detections: Instances, transforms: TransformList, image_size: Size, result_size: Size
) -> Instances:
    """Map the detections in a view to pixels of the result.

    Args:
        detections: instances with "pred_boxes" and optionally "pred_masks", (N, 1, h, w), within
            their boxes.
        transforms: crops, resizing and flips that made the view.
        image_size: (H', W') of the image that the view was made from.
        result_size: (H, W) of the result.

    Returns:
        The mapped detections without those whose boxes are empty.
    """
    boxes = Boxes(transform_boxes(detections.pred_boxes.tensor, transforms.inverse()))
    boxes.scale(result_size[1] / image_size[1], result_size[0] / image_size[0])
    boxes.clip(result_size)
    mapped = Instances(result_size, **detections.get_fields())
    mapped.pred_boxes = boxes
    flips = sum(isinstance(transform, HFlipTransform) for transform in transforms.transforms)
    if flips % 2 == 1 and mapped.has("pred_masks"):
        mapped.pred_masks = mapped.pred_masks.flip(3)
    return mapped[boxes.nonempty()]


def drop_others(detections: Instances, transforms: TransformList) -> Instances:
    """Drop the detections in a view that are centered in the core of another tile.

    Args:
        detections: instances with "pred_boxes" in pixels of the view.
        transforms: transforms that made the view from the image.
    """
    for transform in transforms.transforms:
        if isinstance(transform, TileTransform):
            boxes = transform_boxes(detections.pred_boxes.tensor, transforms.inverse())
            return detections[transform.in_core(boxes)]
    return detections


def batches_of_like_size(
    views: Sequence[dict[str, Any]], batch_size: int
) -> Iterator[list[dict[str, Any]]]:
    """Batch consecutive views of equal size, at most ``batch_size`` at once.

    Views of different sizes would be padded, which changes the results through group norms.
    """
    for _, group in groupby(views, key=lambda view: view["image"].shape):
        while batch := list(islice(group, batch_size)):
            yield batch
