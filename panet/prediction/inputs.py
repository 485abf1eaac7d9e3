"""Finding the files to predict on, and naming them."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from panet.utils.errors import UserError

IMAGE_EXTENSIONS = frozenset(
    f".{kind}"
    for kind in (
        *("avif", "bmp", "dib", "gif", "jfif", "jp2", "jpe", "jpeg", "jpg", "mpo", "pbm", "pgm"),
        *("png", "pnm", "ppm", "tga", "tif", "tiff", "webp"),
    )
)
VIDEO_EXTENSIONS = frozenset(
    f".{kind}" for kind in ("avi", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "ogv")
) | {".webm", ".wmv"}
"""What is taken from folders, in lower case. A file that is named itself may have any extension."""


@dataclass(frozen=True)
class Source:
    """An image or a video.

    Attributes:
        path: of the file, absolute.
        name: its path within the folder that all inputs have in common, with slashes. No two
            sources of a run have the same.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_EXTENSIONS


def find_files(inputs: Sequence[str], excluded: Path | None = None) -> list[Path]:
    """The images and videos that a user names.

    Args:
        inputs: files, folders, which are searched to the bottom, and patterns such as
            "photos/**/*.jpg". In folders, hidden files and folders are left out.
        excluded: a folder whose files are left out, unless they are named themselves.

    Returns:
        Absolute paths, each once: in the order of ``inputs``, sorted within each.

    Raises:
        UserError: if one of ``inputs`` gives no file.
    """
    found: dict[Path, None] = {}
    for name in inputs:
        paths = [_absolute(path) for path in _expand(name)]
        if excluded is not None and not Path(name).is_file():
            paths = [path for path in paths if not path.is_relative_to(_absolute(excluded))]
        if not paths:
            raise UserError(f"There is no image and no video in {name}.")
        found.update(dict.fromkeys(paths))
    return list(found)


def _absolute(path: str | Path) -> Path:
    """Links keep their own names, which may say more than those of what they lead to."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _expand(name: str) -> Iterator[str]:
    path = Path(name)
    if path.is_dir():
        yield from _search(name)
    elif path.exists():
        yield name
    elif glob.has_magic(name):
        for match in sorted(glob.glob(name, recursive=True)):  # noqa: PTH207
            if Path(match).is_file():
                yield match
            elif "**" not in name:  # of which "**" gives the contents too
                yield from _search(match)
    else:
        raise UserError(
            f"There is no file or folder {name}; if it is a configuration key or value, write it "
            "after --opts."
        )


def _search(folder: str) -> Iterator[str]:
    extensions = IMAGE_EXTENSIONS | VIDEO_EXTENSIONS
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        place = os.path.realpath(parent)
        if place in seen:  # by way of links
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in extensions:
                yield str(Path(parent, name))


def common_folder(files: Sequence[Path]) -> Path:
    """The deepest folder that has all of them, which are absolute paths, somewhere below it."""
    return Path(os.path.commonpath([file.parent for file in files]))


def name_sources(files: Sequence[Path], folder: Path) -> list[Source]:
    """Sources that are named by their paths within ``folder``, which has all ``files``."""
    return [Source(file, file.relative_to(folder).as_posix()) for file in files]
