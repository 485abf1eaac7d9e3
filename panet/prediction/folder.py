"""Result folder, written image by image."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as rle

from panet.deployment import Category
from panet.utils.atomic import open_atomically

from .annotated_image import draw
from .media import Picture

_JPEG_OPTIONS = (cv2.IMWRITE_JPEG_QUALITY, 95)

Record = dict[str, Any]
"""Results of an image: "file_name", "frame" if it is a video frame, "width", "height",
"detections", and "stamp" to detect changes of the file, see :func:`stamp_of`."""


def stamp_of(file: Path) -> str:
    """Return a string that changes when the file changes: its size and modification time.

    Raises:
        OSError: if the file does not exist.
    """
    status = file.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def frame_name(video: str, number: int) -> str:
    """Return the name of a frame in the result folder, unique among images and frames."""
    return f"{video}/{number:06d}"


def write_json(content: Any, file: Path) -> None:
    """Write a JSON file atomically, creating its folder if necessary."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(file, "w") as stream:
        json.dump(content, stream)


def read_json(file: Path) -> Any:
    """Read a JSON file; return None if it does not exist or is damaged."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class ResultsFolder:
    """Results by image name.

    The record of an image is one atomically written file. Visualizations and masks are drawn from
    the record and the image, after an interruption also later. The folder is therefore consistent
    at any time, and the cost of adding an image does not depend on the folder's size.

    Attributes:
        path: path of the folder.
        with_pictures: whether to write a visualization of each image.
        with_masks: whether to write the mask of each instance to a file.
    """

    path: Path
    with_pictures: bool = True
    with_masks: bool = False

    @property
    def records(self) -> Path:
        return self.path / "records"

    @property
    def unreadable_list(self) -> Path:
        return self.path / "unreadable.txt"

    @property
    def categories_file(self) -> Path:
        return self.path / "categories.json"

    def picture(self, name: str) -> Path:
        return self.path / "pictures" / f"{name}.jpg"

    def masks(self, name: str) -> Path:
        return self.path / "masks" / name

    def annotated_video(self, name: str) -> Path:
        return self.path / "videos" / f"{name}.mp4"

    def load(self, name: str, stamp: str) -> Record | None:
        """Load the record of an image; None if it does not exist or the file has changed since."""
        record: Record | None = read_json(self._record(name))
        return record if record is not None and record["stamp"] == stamp else None

    def save(self, name: str, record: Record) -> None:
        """Write a record after removing the results of a previous one."""
        self.remove(name)
        write_json(record, self._record(name))

    def remove(self, name: str) -> None:
        """Remove all results of an image."""
        self._record(name).unlink(missing_ok=True)
        self.picture(name).unlink(missing_ok=True)
        shutil.rmtree(self.masks(name), ignore_errors=True)

    def is_finished(self, name: str, stamp: str) -> bool:
        """Whether an image has a record and all files drawn from it."""
        record = self.load(name, stamp)
        return record is not None and not (
            self._lacks_picture(name) or self._lacks_masks(name, record)
        )

    def draw_missing(self, name: str, record: Record, image: Picture) -> None:
        """Draw the missing files of an image from its record."""
        detections = record["detections"]
        if self._lacks_picture(name):
            picture = draw(image, detections, by_category="frame" in record)
            file = self.picture(name)
            file.parent.mkdir(parents=True, exist_ok=True)
            with open_atomically(file) as stream:
                stream.write(cv2.imencode(".jpg", picture, _JPEG_OPTIONS)[1])
        if self._lacks_masks(name, record):
            finished = self.masks(name)
            unfinished = finished.with_name(f".{finished.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            for number, detection in enumerate(detections, start=1):
                mask = rle.decode(detection["segmentation"]) * np.uint8(255)
                Image.fromarray(mask).save(unfinished / f"{number:03d}.png")
            unfinished.replace(finished)

    def begin_video(self, name: str, stamp: str, frames_per_second: float) -> None:
        """Register a video before its frames; remove frames of a previous file of this name."""
        video = read_json(self._video(name))
        if video is not None and video["stamp"] == stamp:
            return
        self.remove_video(name)
        content = {"stamp": stamp, "frames": None, "frames_per_second": frames_per_second}
        write_json(content, self._video(name))

    def end_video(self, name: str, frames: int) -> None:
        """Record the number of frames of a completely read video."""
        video = read_json(self._video(name))
        if video["frames"] != frames:
            write_json({**video, "frames": frames}, self._video(name))

    def load_video(self, name: str, stamp: str) -> dict[str, Any] | None:
        """Load "frames" and "frames_per_second" of a video; None if it was not read completely."""
        video: dict[str, Any] | None = read_json(self._video(name))
        is_known = video is not None and video["stamp"] == stamp and video["frames"] is not None
        return video if is_known else None

    def remove_video(self, name: str) -> None:
        """Remove all results of a video and its frames."""
        for part in ("records", "pictures", "masks"):
            shutil.rmtree(self.path / part / name, ignore_errors=True)
        self.annotated_video(name).unlink(missing_ok=True)
        self._video(name).unlink(missing_ok=True)

    def is_finished_video(self, name: str, stamp: str) -> bool:
        """Whether all frames of a video are finished."""
        video = self.load_video(name, stamp)
        return video is not None and all(
            self.is_finished(frame_name(name, number), stamp)
            for number in range(1, video["frames"] + 1)
        )

    def report_unreadable(self, file: Path, reason: str) -> None:
        """Append a line to the list of unreadable files; safe in several processes at once."""
        with self.unreadable_list.open("a", errors="surrogateescape") as stream:
            stream.write(f"{file}\t{reason}\n")

    def write_categories(self, categories: list[Category]) -> None:
        write_json(categories, self.categories_file)

    def all_records(self) -> Iterator[Record]:
        """Yield the records of all images in the folder, ordered by name."""
        files = (file.relative_to(self.records) for file in self.records.rglob("*.json"))
        for file in sorted(files, key=lambda path: path.parts):
            record = read_json(self.records / file)
            if record is not None:
                yield record

    def _record(self, name: str) -> Path:
        return self.records / f"{name}.json"

    def _video(self, name: str) -> Path:
        return self.path / "videos" / f"{name}.json"

    def _lacks_picture(self, name: str) -> bool:
        return self.with_pictures and not self.picture(name).exists()

    def _lacks_masks(self, name: str, record: Record) -> bool:
        has_masks = any("segmentation" in detection for detection in record["detections"])
        return self.with_masks and has_masks and not self.masks(name).exists()
