"""Visualization of detections."""

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
_SMALL_AREA, _SMALL_HEIGHT = 1000, 40  # of boxes that labels would cover, in pixels


def draw(image: Picture, detections: Sequence[Detection], by_category: bool = False) -> Picture:
    """Draw boxes, masks, categories and scores on a copy of the image.

    The result looks like that of detectron2's matplotlib-based ``Visualizer`` and takes less time.

    Args:
        image: (H, W, 3), BGR.
        detections: from :func:`panet.prediction.coco_results.to_detections`.
        by_category: choose colors by category, so that they are stable over the frames of a video,
            instead of a different color for each detection.

    Returns:
        (H, W, 3), BGR.
    """
    canvas = image.copy()
    if not detections:
        return canvas
    palette = [tuple(color) for color in colormap(rgb=False, maximum=255).astype(int).tolist()]
    colored: list[tuple[Detection, Color]] = [
        (detection, palette[(detection["category_id"] if by_category else i) % len(palette)])
        for i, detection in enumerate(detections)
    ]
    # Draw small detections on top of large ones, and labels on top of all.
    colored.sort(key=lambda pair: -pair[0]["bbox"][2] * pair[0]["bbox"][3])
    font_size = max(12, round(math.sqrt(canvas.shape[0] * canvas.shape[1]) / 65))  # in pixels
    line = max(1, round(font_size / 8))
    for detection, color in colored:
        if "segmentation" in detection:
            _draw_mask(canvas, detection["segmentation"], color, max(1, line // 2))
        x0, y0, x1, y1 = _corners(detection)
        cv2.rectangle(canvas, (x0, y0), (x1, y1), color, line, cv2.LINE_AA)
    return _with_labels(canvas, colored, font_size)


def _corners(detection: Detection) -> tuple[int, int, int, int]:
    x, y, width, height = detection["bbox"]
    return round(x), round(y), round(x + width), round(y + height)


def _draw_mask(canvas: Picture, mask: dict[str, Any], color: Color, line: int) -> None:
    """Tint the pixels of a mask and draw its outline, in place."""
    x, y, width, height = rle.toBbox(mask).astype(int).tolist()
    if not width:
        return
    region = slice(y, y + height), slice(x, x + width)
    covered = np.ascontiguousarray(rle.decode(mask)[region])
    pixels = canvas[region]
    tint = np.full_like(pixels, color)
    tinted = cv2.addWeighted(pixels, 1 - _MASK_OPACITY, tint, _MASK_OPACITY, 0)
    np.copyto(pixels, tinted, where=covered[:, :, None].astype(bool))
    outlines, _ = cv2.findContours(covered, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y))
    cv2.drawContours(canvas, outlines, -1, color, line, cv2.LINE_AA)


def _with_labels(
    canvas: Picture, colored: Sequence[tuple[Detection, Color]], font_size: int
) -> Picture:
    """Label every box with category and score, in its corner or, if it is small, below."""
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    font = _font(font_size)
    margin = max(1, font_size // 6)
    for detection, color in colored:
        words = f"{detection['category']} {100 * detection['score']:.0f}%".split()
        text = " ".join(words)  # without line breaks
        x0, y0, x1, y1 = _corners(detection)
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
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Load matplotlib's bundled font, which covers many alphabets."""
    return ImageFont.truetype(findfont("DejaVu Sans"), size)
