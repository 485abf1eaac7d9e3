"""The views of an image that are merged at test time."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
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
"""From the input of one image to those of its views, with the "transforms" that made them."""


def build_view_mapper(cfg: CfgNode) -> ViewMapper:
    """The views that ``TEST.AUG`` asks for, or the image itself.

    Raises:
        UserError: if a key of ``TEST.AUG`` has an impossible value.
    """
    options = cfg.TEST.AUG
    if not options.ENABLED:
        return identity_view
    _check_options(cfg)

    def views(image: dict[str, Any]) -> list[dict[str, Any]]:
        found = []
        for cut, tile in _cut(cfg, image):
            height, width = tile["image"].shape[1:]
            resize = DatasetMapperTTA(
                shorter_edges(cfg, height, width), options.MAX_SIZE, options.FLIP
            )
            for view in resize(tile):
                found.append({**view, "transforms": cut + view["transforms"]})
        return found

    return views


def _check_options(cfg: CfgNode) -> None:
    options = cfg.TEST.AUG
    if not all(scale > 0 for scale in options.SCALES):
        raise UserError(f"TEST.AUG.SCALES is {tuple(options.SCALES)}; all of them must be above 0.")
    if options.WINDOW < 0 or (options.WINDOW and not 0 <= options.OVERLAP < options.WINDOW):
        raise UserError(
            f"TEST.AUG.WINDOW is {options.WINDOW} and TEST.AUG.OVERLAP {options.OVERLAP}; they "
            "must not be negative, and the overlap must be smaller."
        )


def _cut(cfg: CfgNode, image: dict[str, Any]) -> Iterator[tuple[TransformList, dict[str, Any]]]:
    if cfg.TEST.AUG.WINDOW == 0:
        yield TransformList([]), image
        return
    for cut, tile in cut_tiles(image, cfg.TEST.AUG.WINDOW, cfg.TEST.AUG.OVERLAP):
        yield TransformList([cut]), tile


def view_sizes(cfg: CfgNode, height: int, width: int) -> list[Size]:
    """The sizes of an image's views.

    Args:
        cfg: keys ``TEST.AUG``.
        height, width: of the image.
    """
    options = cfg.TEST.AUG
    if options.WINDOW:
        height, width = min(height, options.WINDOW), min(width, options.WINDOW)
    return [
        ResizeShortestEdge.get_output_shape(height, width, shorter, options.MAX_SIZE)
        for shorter in shorter_edges(cfg, height, width)
    ]


def shorter_edges(cfg: CfgNode, height: int, width: int) -> list[int]:
    """The shorter edges, in pixels, that an image or a tile is resized to."""
    scaled = [max(1, round(scale * min(height, width))) for scale in cfg.TEST.AUG.SCALES]
    return scaled or list(cfg.TEST.AUG.MIN_SIZES)


def identity_view(image: dict[str, Any]) -> list[dict[str, Any]]:
    """An image as its own only view."""
    return [{**image, "transforms": TransformList([NoOpTransform()])}]


def make_views(image: dict[str, Any], view_mapper: ViewMapper) -> list[dict[str, Any]]:
    """The views of an image, with its proposals where it has some.

    Args:
        image: as for ``GeneralizedRCNN``.
        view_mapper: makes them; their "transforms" begin at the image as it is given, whatever
            size the result shall have.
    """
    height, width = image["image"].shape[1:]
    views = view_mapper({**image, "height": height, "width": width})
    for view in views:
        transform_proposals(view)
    return views


def transform_proposals(view: dict[str, Any]) -> None:
    """Take the proposals of the image along into a view that was made of it, in place."""
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
    """Boxes, (N, 4), where an augmentation moves them."""
    return boxes.new_tensor(transforms.apply_box(boxes.cpu().numpy())).reshape(-1, 4)


def map_back(
    found: Instances, transforms: TransformList, image_size: Size, result_size: Size
) -> Instances:
    """What was found in a view, in pixels of the result.

    Args:
        found: with "pred_boxes" and maybe "pred_masks", (N, 1, h, w), in their boxes.
        transforms: what made the view, of cropping, resizing and flipping.
        image_size: (H', W') of the image that it was made of.
        result_size: (H, W) to scale to.

    Returns:
        The same without boxes that are empty.
    """
    boxes = Boxes(transform_boxes(found.pred_boxes.tensor, transforms.inverse()))
    boxes.scale(result_size[1] / image_size[1], result_size[0] / image_size[0])
    boxes.clip(result_size)
    mapped = Instances(result_size, **found.get_fields())
    mapped.pred_boxes = boxes
    flips = sum(isinstance(transform, HFlipTransform) for transform in transforms.transforms)
    if flips % 2 == 1 and mapped.has("pred_masks"):
        mapped.pred_masks = mapped.pred_masks.flip(3)
    return mapped[boxes.nonempty()]


def drop_others(found: Instances, transforms: TransformList) -> Instances:
    """What was found in a view, with "pred_boxes", but for what a neighbouring tile answers for.

    Args:
        found: in pixels of the view.
        transforms: what made the view of the image.
    """
    for transform in transforms.transforms:
        if isinstance(transform, TileTransform):
            boxes = transform_boxes(found.pred_boxes.tensor, transforms.inverse())
            return found[transform.in_core(boxes)]
    return found


def batches_of_like_size(
    views: Sequence[dict[str, Any]], batch_size: int
) -> Iterator[list[dict[str, Any]]]:
    """Neighbouring views of equal size together, at most ``batch_size`` of them.

    Those of other sizes would be padded, which reaches the results through group norms.
    """
    for _, group in groupby(views, key=lambda view: view["image"].shape):
        alike = list(group)
        for start in range(0, len(alike), batch_size):
            yield alike[start : start + batch_size]
