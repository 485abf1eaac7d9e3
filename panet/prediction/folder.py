"""The folder that results are written to, image by image."""

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
"""Of an image: "file_name", "frame" if it is one of a video, "width", "height", "detections" and
"stamp", which tells whether the file has changed since."""


def stamp_of(file: Path) -> str:
    """A text that changes when the file does.

    Raises:
        OSError: if it is not there.
    """
    status = file.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def frame_name(video: str, number: int) -> str:
    """What a frame is called here, next to the images' names."""
    return f"{video}/{number:06d}"


def write_json(content: Any, file: Path) -> None:
    """Write a file that is there as a whole or not at all, and its folder if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(file, "w") as stream:
        json.dump(content, stream)


def read_json(file: Path) -> Any:
    """The content of a file, None if there is none or it is damaged."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class ResultsFolder:
    """Results by the names of their images.

    An image is done when its record is there, which is one file, written at once. Pictures and
    masks are drawn from the record and the image, now or, after an interruption, later. So the
    folder is whole at every moment, and its size does not matter to what writing one more takes.

    Attributes:
        path: of the folder.
        with_pictures: whether images get a picture of what was found in them.
        with_masks: whether every instance gets a file with its mask.
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
        """The record of an image, None if there is none or the file was another one then."""
        record: Record | None = read_json(self._record(name))
        return record if record is not None and record["stamp"] == stamp else None

    def save(self, name: str, record: Record) -> None:
        """Write a record; pictures and masks of a former one go."""
        self.remove(name)
        write_json(record, self._record(name))

    def remove(self, name: str) -> None:
        """Remove everything about an image."""
        self._record(name).unlink(missing_ok=True)
        self.picture(name).unlink(missing_ok=True)
        shutil.rmtree(self.masks(name), ignore_errors=True)

    def is_finished(self, name: str, stamp: str) -> bool:
        """Whether an image has its record and what shall be drawn from it."""
        record = self.load(name, stamp)
        return record is not None and not (
            self._lacks_picture(name) or self._lacks_masks(name, record)
        )

    def draw_missing(self, name: str, record: Record, image: Picture) -> None:
        """Draw what an image with a record lacks."""
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
        """Say which video the frames to come are of; those of another file of that name go."""
        video = read_json(self._video(name))
        if video is not None and video["stamp"] == stamp:
            return
        self.remove_video(name)
        content = {"stamp": stamp, "frames": None, "frames_per_second": frames_per_second}
        write_json(content, self._video(name))

    def end_video(self, name: str, frames: int) -> None:
        """Say how many frames a video turned out to have."""
        video = read_json(self._video(name))
        if video["frames"] != frames:
            write_json({**video, "frames": frames}, self._video(name))

    def load_video(self, name: str, stamp: str) -> dict[str, Any] | None:
        """ "frames" and "frames_per_second" of a video that was read to its end, else None."""
        video: dict[str, Any] | None = read_json(self._video(name))
        is_known = video is not None and video["stamp"] == stamp and video["frames"] is not None
        return video if is_known else None

    def remove_video(self, name: str) -> None:
        """Remove everything about a video and its frames."""
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
        """Add a line to the list; several processes may do so at a time."""
        with self.unreadable_list.open("a", errors="surrogateescape") as stream:
            stream.write(f"{file}\t{reason}\n")

    def write_categories(self, categories: list[Category]) -> None:
        write_json(categories, self.categories_file)

    def all_records(self) -> Iterator[Record]:
        """The records of all images that were ever predicted on, in the order of their names."""
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
