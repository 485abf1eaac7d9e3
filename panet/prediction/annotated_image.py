"""Pictures of what was found in an image."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from detectron2.utils.colormap import colormap
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as rle

from .media import Picture

Color = tuple[int, int, int]
Detection = dict[str, Any]

_MASK_OPACITY = 0.5
_SMALL_AREA, _SMALL_HEIGHT = 1000, 40  # labels would hide such boxes


def draw(image: Picture, detections: Sequence[Detection], by_category: bool = False) -> Picture:
    """The image with boxes, masks, categories and scores on it.

    It looks like what detectron2's ``Visualizer`` draws by matplotlib, in less time.

    Args:
        image: (H, W, 3), BGR.
        detections: from :func:`panet.prediction.coco_results.to_detections`.
        by_category: give each category its colour, which is steady over the frames of a video.
            Otherwise neighbouring detections have different ones.

    Returns:
        (H, W, 3), BGR.
    """
    canvas = image.copy()
    if not detections:
        return canvas
    palette = [tuple(color) for color in colormap(rgb=False, maximum=255).astype(int).tolist()]
    colored: list[tuple[Detection, Color]] = [
        (found, palette[(found["category_id"] if by_category else rank) % len(palette)])
        for rank, found in enumerate(detections)
    ]
    # Small ones lie on top, and labels above all.
    colored.sort(key=lambda pair: -pair[0]["bbox"][2] * pair[0]["bbox"][3])
    letters = max(12, round(math.sqrt(canvas.shape[0] * canvas.shape[1]) / 65))  # in pixels
    line = max(1, round(letters / 8))
    for found, color in colored:
        if "segmentation" in found:
            _draw_mask(canvas, found["segmentation"], color, max(1, line // 2))
        x0, y0, x1, y1 = _corners(found)
        cv2.rectangle(canvas, (x0, y0), (x1, y1), color, line, cv2.LINE_AA)
    return _with_labels(canvas, colored, letters)


def _corners(found: Detection) -> tuple[int, int, int, int]:
    x, y, width, height = found["bbox"]
    return round(x), round(y), round(x + width), round(y + height)


def _draw_mask(canvas: Picture, mask: dict[str, Any], color: Color, line: int) -> None:
    """Tint what a mask covers, and draw its outline."""
    x, y, width, height = rle.toBbox(mask).astype(int).tolist()
    if not width:
        return
    part = slice(y, y + height), slice(x, x + width)
    covered = np.ascontiguousarray(rle.decode(mask)[part])
    there = canvas[part]
    tint = np.full_like(there, color)
    tinted = cv2.addWeighted(there, 1 - _MASK_OPACITY, tint, _MASK_OPACITY, 0)
    np.copyto(there, tinted, where=covered[:, :, None].astype(bool))
    outlines, _ = cv2.findContours(covered, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y))
    cv2.drawContours(canvas, outlines, -1, color, line, cv2.LINE_AA)


def _with_labels(
    canvas: Picture, colored: Sequence[tuple[Detection, Color]], letters: int
) -> Picture:
    """The picture with category and score at every box: in its corner, or below small ones."""
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    font = _font(letters)
    margin = max(1, letters // 6)
    for found, color in colored:
        words = f"{found['category']} {100 * found['score']:.0f}%".split()
        text = " ".join(words)  # in one line
        x0, y0, x1, y1 = _corners(found)
        is_small = (x1 - x0) * (y1 - y0) < _SMALL_AREA or y1 - y0 < _SMALL_HEIGHT
        width = round(font.getlength(text)) + 2 * margin
        height = sum(font.getmetrics()) + margin
        x = max(0, min(x0, picture.width - width))
        y = max(0, min(y1 if is_small else y0, picture.height - height))
        pen.rectangle((x, y, x + width, y + height), fill=(0, 0, 0))
        light = tuple((value + 255) // 2 for value in color)
        pen.text((x + margin, y), text, fill=light, font=font)
    return np.array(picture)


@lru_cache(maxsize=8)
def _font(letters: int) -> ImageFont.FreeTypeFont:
    """matplotlib's own, which has letters of many alphabets and is there on every machine."""
    return ImageFont.truetype(findfont("DejaVu Sans"), letters)
