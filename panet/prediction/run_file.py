"""Starting to write into a folder, for the first time or once more."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from panet.utils.errors import UserError

from .folder import read_json, write_json
from .inputs import common_folder

RUN_FILE = "run.json"
_LOCK_FILE = ".lock"
_FOLDERS = ("records", "pictures", "masks", "videos")
_FILES = ("results.json", "images.json", "categories.json", "results.csv", "unreadable.txt")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other programs from writing to a folder, which is made if need be.

    Raises:
        UserError: if one is at it, or the folder cannot be made.
    """
    lock = FileLock(folder / _LOCK_FILE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"Another program is writing to {folder}; wait for it, or give another folder."
        ) from error
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error.strerror}.") from error
    try:
        yield
    finally:
        lock.release()


def start(
    folder: Path, settings: dict[str, Any], files: Sequence[Path], start_over: bool = False
) -> Path:
    """See that what is in a folder has the same settings as what shall be added to it.

    Args:
        folder: made if need be.
        settings: see :func:`panet.prediction.settings.prediction_settings`.
        files: that results shall be added for, absolute.
        start_over: delete the results that are there.

    Returns:
        The folder that the names of all images begin in.

    Raises:
        UserError: if the settings differ, if names would have to begin elsewhere, or if the folder
            has files that do not come from here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = read_json(folder / RUN_FILE)
    if run is None:
        own = (RUN_FILE, f"{RUN_FILE}.unfinished", _LOCK_FILE)
        if any(path.name not in own for path in folder.iterdir()):
            raise UserError(f"{folder} has files of another kind; give a new or an empty folder.")
    elif start_over:
        _delete_results(folder)
        run = None
    if run is None:
        run = {"settings": settings, "names_begin_in": str(common_folder(files))}
        write_json(run, folder / RUN_FILE)
    advice = "give another --output, or delete them with --start-over"
    former = run["settings"]
    different = [key for key in {**settings, **former} if settings.get(key) != former.get(key)]
    if "weights" in different:
        raise UserError(f"{folder} holds results of other weights; {advice}.")
    if different:
        key = different[0]
        raise UserError(
            f"{folder} holds results made with {key} {former.get(key)}, not {settings.get(key)}; "
            f"{advice}."
        )
    root = Path(run["names_begin_in"])
    outside = [file for file in files if not file.is_relative_to(root)]
    if outside:
        raise UserError(
            f"{folder} holds results for files below {root}, where {outside[0]} is not; {advice}."
        )
    return root


def _delete_results(folder: Path) -> None:
    for name in _FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
