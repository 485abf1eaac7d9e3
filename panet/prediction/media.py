"""Robust reading of images and videos."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from detectron2.data import detection_utils
from PIL import Image, UnidentifiedImageError

from panet.utils.errors import UserError

Picture = npt.NDArray[np.uint8]
"""(H, W, 3), BGR."""

_CAMERA_BITS = (8, 10, 12, 14, 16)


class UnreadableImageError(UserError):
    """A file is not an image or video, is damaged, or is too small for prediction."""


def read_image(path: Path) -> Picture:
    """Read an image as detectron2 does, with support for more than 8 bits.

    The EXIF orientation is applied, transparency is ignored, and only the first page is read.
    Greyscale values of more than 8 bits are scaled, see :func:`to_eight_bits`, instead of being
    clipped at 255.

    Raises:
        UnreadableImageError: if it cannot be read, or is only one pixel high or wide.
    """
    if path.is_file() and path.stat().st_size == 0:
        raise UnreadableImageError("the file is empty")
    try:
        with Image.open(path) as file:
            is_deep = file.mode.startswith(("I", "F"))
        if is_deep:
            grey = to_eight_bits(detection_utils.read_image(str(path)))
            image = np.repeat(grey[:, :, None], 3, axis=2)
        else:
            image = np.ascontiguousarray(detection_utils.read_image(str(path), "BGR"))
    except UnidentifiedImageError as error:
        raise UnreadableImageError("not an image of a known format") from error
    except Exception as error:  # decoders raise all kinds of exceptions for damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(reason) from error
    if min(image.shape[:2]) < 2:
        raise UnreadableImageError(f"the image has only {image.shape[1]} x {image.shape[0]} pixels")
    return image


def to_eight_bits(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Scale greyscale values to 0 ... 255.

    Files do not store the value of white; 12-bit cameras, for example, write 16-bit files. It is
    assumed to be 1 for floats up to 1, else the maximum of the smallest of 8, 10, 12, 14 or 16
    bits that holds all values, else the largest value. 8-bit values are therefore unchanged.

    Args:
        values: (H, W), of any real type; negative and non-finite values become black.

    Returns:
        (H, W).
    """
    finite = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0).clip(min=0)
    highest = finite.max(initial=0.0)
    ranges = [2**bits - 1 for bits in _CAMERA_BITS]
    if highest <= 1 and np.issubdtype(values.dtype, np.floating):
        white = 1.0
    else:
        white = next((end for end in ranges if highest <= end), highest)
    return np.rint(finite * (255 / white)).astype(np.uint8)


def is_utf8(path: Path) -> bool:
    """Whether OpenCV accepts a path; it ends the process if a path is not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _opened(path: Path) -> Iterator[cv2.VideoCapture]:
    if not path.is_file():
        raise UnreadableImageError("the file does not exist")
    if not is_utf8(path):
        raise UnreadableImageError("OpenCV reads no videos whose path is not UTF-8")
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise UnreadableImageError("not a video that OpenCV can read")
        yield capture
    finally:
        capture.release()


def probe_video(path: Path) -> tuple[int, float]:
    """Return the frame count that a video reports, or 0, and its frames per second, by default 25.

    Raises:
        UnreadableImageError: if it cannot be opened.
    """
    with _opened(path) as capture:
        frames = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        rate = capture.get(cv2.CAP_PROP_FPS)
    return max(0, int(frames)), rate if 0 < rate < 1000 else 25.0


def read_frames(
    path: Path, is_wanted: Callable[[int], bool]
) -> Iterator[tuple[int, Picture | None]]:
    """Read the frames of a video, in order.

    Args:
        path: path of the video.
        is_wanted: whether to decode the frame of a number. The other frames are skipped one by
            one, since seeking is not frame-accurate.

    Yields:
        The number of each frame, from 1, and the frame, or None if it is not wanted.

    Raises:
        UnreadableImageError: if the video cannot be opened or has no frame.
    """
    with _opened(path) as capture:
        number = 0
        while capture.grab():
            number += 1
            if is_wanted(number):
                read, frame = capture.retrieve()
                if not read:
                    break
                yield number, frame.astype(np.uint8, copy=False)
            else:
                yield number, None
    if number == 0:
        raise UnreadableImageError("the video has no readable frame")
