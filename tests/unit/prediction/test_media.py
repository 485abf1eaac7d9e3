"""Odd images are read right, and bad ones refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from detectron2.data.detection_utils import read_image as detectron2_read_image
from PIL import Image

from panet.data.shapes import draw_image
from panet.prediction import UnreadableImageError, read_image
from panet.prediction.media import probe_video, read_frames, to_eight_bits

BGR = cv2.resize(draw_image(5, 0)[0], (60, 40))
"""Not square, so that a rotation shows."""


def rgb() -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(BGR[:, :, ::-1]))


def with_orientation(number: int) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        exif = Image.Exif()
        exif[274] = number
        rgb().save(path, exif=exif)

    return save


def palette_with_alpha(path: Path) -> None:
    image = rgb().quantize(16)
    image.save(path, transparency=bytes(range(0, 160, 10)))


ODD: dict[str, Callable[[Path], Any]] = {
    "grey.png": lambda path: rgb().convert("L").save(path),
    "grey_alpha.png": lambda path: rgb().convert("LA").save(path),
    "black_and_white.png": lambda path: rgb().convert("1").save(path),
    "cmyk.jpg": lambda path: rgb().convert("CMYK").save(path),
    "cmyk.tif": lambda path: rgb().convert("CMYK").save(path),
    "palette.png": palette_with_alpha,
    "palette.gif": lambda path: rgb().save(path),
    "alpha.png": lambda path: rgb().convert("RGBA").save(path),
    "alpha.webp": lambda path: rgb().convert("RGBA").save(path, lossless=True),
    "colour_16.png": lambda path: cv2.imwrite(str(path), BGR.astype(np.uint16) * 257),
    "colour_16.tif": lambda path: cv2.imwrite(str(path), BGR.astype(np.uint16) * 257),
    "misnamed.jpg": lambda path: rgb().save(path, format="PNG"),
    **{f"turned_{number}.jpg": with_orientation(number) for number in range(1, 9)},
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", ODD)
def test_odd_images_are_read_as_detectron2_does(tmp_path: Path, name: str) -> None:
    ODD[name](tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, detectron2_read_image(str(tmp_path / name), "BGR"))
    assert image.std() > 10
    if name.startswith("turned"):
        assert image.shape == ((60, 40, 3) if int(name[7]) > 4 else (40, 60, 3))


def test_a_turned_image_is_upright(tmp_path: Path) -> None:
    stored = np.rot90(BGR)  # to be turned clockwise: orientation 6
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.ascontiguousarray(stored[:, :, ::-1])).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), BGR)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_many_bits_of_grey_are_scaled(tmp_path: Path, suffix: str, bits: int) -> None:
    grey = np.ascontiguousarray(BGR[:, :, 0])
    grey[0, 0] = 255
    values = np.rint(grey.astype(np.float64) * (2**bits - 1) / 255).astype(np.uint16)
    path = tmp_path / f"grey{suffix}"
    cv2.imwrite(str(path), values)
    image = read_image(path)
    np.testing.assert_array_equal(image, np.repeat(grey[:, :, None], 3, axis=2))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [[0, 128, 255]]),
        (np.array([[0.0, 100.0, 200.0]], np.float32), [[0, 100, 200]]),
        (np.array([[np.nan, -5.0, 255.0, np.inf]], np.float32), [[0, 0, 255, 0]]),
        (np.array([[0, 1]], np.int32), [[0, 1]]),
        (np.array([[0, 2**20, 2**19]], np.int32), [[0, 255, 128]]),
        (np.zeros((1, 2), np.uint16), [[0, 0]]),
    ],
)
def test_values_of_any_type_become_bytes(
    values: npt.NDArray[np.generic], expected: list[list[int]]
) -> None:
    np.testing.assert_array_equal(to_eight_bits(values), expected)


def truncated(path: Path) -> None:
    rgb().resize((300, 200)).save(path, quality=95)
    path.write_bytes(path.read_bytes()[:3000])


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty.jpg": (lambda path: path.touch(), "is empty"),
    "truncated.jpg": (truncated, "truncated"),
    "truncated.png": (truncated, "."),
    "text.jpg": (lambda path: path.write_text("no image"), "not an image of a known format"),
    "header.png": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50)), "."),
    "one_pixel.png": (lambda path: Image.new("RGB", (1, 1)).save(path), "only 1 x 1 pixels"),
    "one_row.png": (lambda path: Image.new("RGB", (50, 1)).save(path), "only 50 x 1 pixels"),
    "no_size.ppm": (lambda path: path.write_bytes(b"P6 0 0 255 "), "."),
    "huge.pgm": (lambda path: path.write_bytes(b"P5 90000 90000 255 "), "decompression bomb"),
    "folder.jpg": (lambda path: path.mkdir(), "directory"),
    "gone.jpg": (lambda path: None, "No such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    make, reason = BAD[name]
    make(tmp_path / name)
    with pytest.raises(UnreadableImageError, match=reason) as caught:
        read_image(tmp_path / name)
    assert "\n" not in str(caught.value)


def write_video(path: Path, frames: int) -> None:
    """Frames of growing brightness."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12, (64, 48))
    for number in range(1, frames + 1):
        writer.write(np.full((48, 64, 3), 20 * number, np.uint8))
    writer.release()


def test_frames_are_numbered_whichever_are_wanted(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    write_video(path, 8)
    assert probe_video(path) == (8, 12)
    frames = list(read_frames(path, lambda number: number % 3 == 0))
    assert [number for number, _ in frames] == list(range(1, 9))
    assert [number for number, frame in frames if frame is not None] == [3, 6]
    for number, frame in frames:
        if frame is not None:
            assert frame.shape == (48, 64, 3)
            assert frame.mean() == pytest.approx(20 * number, abs=4)


@pytest.mark.parametrize("content", [None, b"", b"no video"])
def test_bad_videos_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "film.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableImageError):
        list(read_frames(path, lambda number: True))
    with pytest.raises(UnreadableImageError):
        probe_video(path)
