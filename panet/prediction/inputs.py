"""Search and naming of input files."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from panet.utils.errors import UserError

_IMAGES = "avif bmp dib gif jfif jp2 jpe jpeg jpg mpo pbm pgm png pnm ppm tga tif tiff webp"
_VIDEOS = "avi m2ts m4v mkv mov mp4 mpeg mpg mts ogv webm wmv"
IMAGE_EXTENSIONS = frozenset(f".{name}" for name in _IMAGES.split())
VIDEO_EXTENSIONS = frozenset(f".{name}" for name in _VIDEOS.split())
"""Lower-case extensions of files in folders. Files given explicitly may have any extension."""


@dataclass(frozen=True)
class Source:
    """An image or a video.

    Attributes:
        path: absolute path of the file.
        name: POSIX path relative to the common folder of all inputs, unique within a run.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_EXTENSIONS


def find_files(inputs: Sequence[str], excluded: Path | None = None) -> list[Path]:
    """Find the images and videos of command-line inputs.

    Args:
        inputs: files, folders, which are searched recursively, and glob patterns such as
            "photos/**/*.jpg". Hidden files and folders within folders are skipped.
        excluded: folder whose files are skipped, unless given explicitly.

    Returns:
        Unique absolute paths in the order of ``inputs``, sorted within each input.

    Raises:
        UserError: if an input yields no file.
    """
    found: dict[Path, None] = {}
    for name in inputs:
        paths = [_absolute(path) for path in _expand(name)]
        if excluded is not None and not Path(name).is_file():
            paths = [path for path in paths if not path.is_relative_to(_absolute(excluded))]
        if not paths:
            raise UserError(f"{name} contains no image or video; give files or folders that do.")
        found.update(dict.fromkeys(paths))
    return list(found)


def _absolute(path: str | Path) -> Path:
    """Make a path absolute without resolving symbolic links, to keep the names users see."""
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
            elif "**" not in name:  # "**" matches the contents as well
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
        if place in seen:  # cycle of symbolic links
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in extensions:
                yield str(Path(parent, name))


def common_folder(files: Sequence[Path]) -> Path:
    """Return the deepest folder that contains all files, which are absolute paths."""
    return Path(os.path.commonpath([file.parent for file in files]))


def name_sources(files: Sequence[Path], folder: Path) -> list[Source]:
    """Name files by their paths relative to ``folder``, which contains all of them."""
    return [Source(file, file.relative_to(folder).as_posix()) for file in files]
