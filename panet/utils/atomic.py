"""Atomic file writes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from detectron2.utils.file_io import PathManager


@contextmanager
def open_atomically(
    path: str | Path, mode: str = "wb", encoding: str | None = None, errors: str | None = None
) -> Iterator[IO[Any]]:
    """Open a local file for writing and replace an existing file only once writing succeeded.

    If the block raises an error or the process is killed, the old file is unchanged.

    Args:
        path: file path; its folder must exist.
        mode: "wb" or "w".
        encoding: of text; by default UTF-8, regardless of the locale.
        errors: how to encode what the encoding lacks, see :func:`open`; an error by default.
    """
    if encoding is None and "b" not in mode:
        encoding = "utf-8"
    unfinished = Path(f"{path}.unfinished")
    try:
        with unfinished.open(mode, encoding=encoding, errors=errors) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


class AtomicPathManager:
    """detectron2's path manager with :func:`open_atomically` for writing local files."""

    def __getattr__(self, name: str) -> Any:
        return getattr(PathManager, name)

    def open(self, path: str, mode: str = "r", **kwargs: Any) -> Any:
        """See iopath's ``PathManager.open``."""
        if mode in ("w", "wb") and "://" not in path:
            return open_atomically(path, mode)
        return PathManager.open(path, mode, **kwargs)
