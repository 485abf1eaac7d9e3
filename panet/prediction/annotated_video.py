"""Videos with drawn detections."""

from collections.abc import Sequence
from contextlib import suppress

import cv2

from panet.utils.errors import UserError

from .folder import ResultsFolder, frame_name, stamp_of
from .inputs import Source
from .media import is_utf8


def write_annotated_videos(sources: Sequence[Source], folder: ResultsFolder) -> None:
    """Encode the annotated frames of each video as a video, unless it exists.

    Args:
        sources: images, which are ignored, and videos, which are encoded if all their frames are
            finished.
        folder: folder with the annotated frames.

    Raises:
        UserError: if OpenCV cannot encode videos on this machine, or in this folder.
    """
    for source in sources:
        if source.is_video and not folder.annotated_video(source.name).exists():
            with suppress(OSError):  # the source was deleted or cannot be read
                _write(source, folder, stamp_of(source.path))


def _write(source: Source, folder: ResultsFolder, stamp: str) -> None:
    video = folder.load_video(source.name, stamp)
    if video is None:
        return
    target = folder.annotated_video(source.name)
    if not is_utf8(target):
        raise UserError(
            f"OpenCV cannot write {target}, whose path is not UTF-8; give another --output, or use "
            "--no-pictures."
        )
    unfinished = target.with_suffix(".unfinished.mp4")
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter()
    try:
        for number in range(1, video["frames"] + 1):
            picture = cv2.imread(str(folder.picture(frame_name(source.name, number))))
            if picture is None:
                return  # the annotated frame was deleted
            if not writer.isOpened():
                height, width = picture.shape[:2]
                code = cv2.VideoWriter.fourcc(*"mp4v")
                writer.open(str(unfinished), code, video["frames_per_second"], (width, height))
                if not writer.isOpened():
                    raise UserError(
                        f"OpenCV cannot encode {target} on this machine; use --no-pictures."
                    )
            writer.write(picture)
    finally:
        writer.release()
    unfinished.replace(target)
