"""Locking and checking of a result folder at the start of a run."""

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
    """Lock a folder against other programs, creating it if necessary.

    Raises:
        UserError: if another program holds the lock, or the folder cannot be created.
    """
    lock = FileLock(folder / _LOCK_FILE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"Another program is writing to {folder}; wait until it ends, or give another folder."
        ) from error
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to: {error.strerror}; give another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def start(
    folder: Path, settings: dict[str, Any], files: Sequence[Path], start_over: bool = False
) -> Path:
    """Check that existing results in a folder have the settings of those to be added.

    Args:
        folder: result folder, created if necessary.
        settings: from :func:`panet.prediction.settings.prediction_settings`.
        files: absolute paths of the files to add results for.
        start_over: delete existing results.

    Returns:
        The folder that all image names are relative to.

    Raises:
        UserError: if the settings differ, if a file is outside the folder that image names are
            relative to, or if the folder has files that are not results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = read_json(folder / RUN_FILE)
    if run is None:
        ours = (RUN_FILE, f"{RUN_FILE}.unfinished", _LOCK_FILE)
        if any(path.name not in ours for path in folder.iterdir()):
            raise UserError(
                f"{folder} has files that are not results; give a new or an empty folder."
            )
    elif start_over:
        _delete_results(folder)
        run = None
    if run is None:
        run = {"settings": settings, "names_begin_in": str(common_folder(files))}
        write_json(run, folder / RUN_FILE)
    advice = "give another --output, or delete them with --start-over"
    existing = run["settings"]
    changed = [key for key in {**settings, **existing} if settings.get(key) != existing.get(key)]
    if "weights" in changed:
        raise UserError(f"{folder} holds results of other weights; {advice}.")
    if changed:
        key = changed[0]
        raise UserError(
            f"{folder} holds results with {key} {existing.get(key)}, not {settings.get(key)}; "
            f"{advice}."
        )
    root = Path(run["names_begin_in"])
    outside = [file for file in files if not file.is_relative_to(root)]
    if outside:
        raise UserError(
            f"{folder} holds results for files in {root}, but {outside[0]} is not in it; {advice}."
        )
    return root


def _delete_results(folder: Path) -> None:
    for name in _FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
