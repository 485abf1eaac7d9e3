"""Errors that the user of a program can fix."""

import argparse
import errno
import multiprocessing
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNUSABLE = (
    *(errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENOENT, errno.ENOTDIR, errno.EPERM),
    errno.EROFS,
)


class UserError(ValueError):
    """An invalid file, configuration key or argument; the message says which and how to fix it.

    The command-line programs print only the message, without a traceback.
    """


class DownloadError(UserError, OSError):
    """A file cannot be downloaded."""


def add_debug_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--debug``, which makes :func:`exit_on_user_error` print tracebacks."""
    parser.add_argument("--debug", action="store_true", help="show tracebacks of all errors")


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Exit with a one-line message on standard error instead of a traceback.

    Handles :class:`UserError`, a full disk and unusable paths (exit status 2) and Ctrl-C (exit
    status 130). Use it around a program's main function and, if detectron2's ``launch`` runs that
    function in several processes, around the call of ``launch`` too, which prints the message of
    the process that failed first.
    """
    is_child = multiprocessing.parent_process() is not None
    try:
        yield
    except UserError as error:
        if is_child:
            raise
        _exit(str(error))
    except OSError as error:
        message = _file_error(error.errno, error.strerror, error.filename)
        if is_child or message is None:
            raise
        _exit(message)
    except KeyboardInterrupt:
        if not is_child:
            print("error: Interrupted.", file=sys.stderr)
        sys.exit(130)
    except ProcessRaisedException as error:
        message = _message(str(error))
        if message is None:
            raise
        _exit(message)
    except ProcessExitedException as error:
        if error.signal_name is None:
            sys.exit(error.exit_code)
        print(
            f"error: Process {error.error_index} was killed by {error.signal_name}, perhaps "
            "because memory ran out.",
            file=sys.stderr,
        )
        sys.exit(128 - error.exit_code)


def _exit(message: str) -> NoReturn:
    if "--debug" in sys.argv:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _file_error(number: int | None, reason: str | None, file: str | None) -> str | None:
    """Describe an error of the file system that a user can fix."""
    if number in _FULL:
        return (
            f"There is no space left to write {file or 'to the disk'}; free some space, then "
            "continue a training run with --resume."
        )
    if number in _UNUSABLE and file:
        return f"{file} cannot be read or written: {reason}."
    return None


def _message(text: str) -> str | None:
    """Find the message for the user in the traceback of another process."""
    if found := re.search(r"^[\w.]*errors\.(?:UserError|DownloadError): (.*)", text, re.M | re.S):
        return found[1].strip()
    if found := re.search(r"^\w*Error: \[Errno (\d+)\] ([^:\n]*)(?:: '(.*)')?$", text, re.M):
        return _file_error(int(found[1]), found[2], found[3])
    return None
