"""Errors that the user of a program can fix."""

import argparse
import errno
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.utils import comm
from torch.multiprocessing.spawn import ProcessExitedException


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

    Handles :class:`UserError` and a full disk (exit status 2) and Ctrl-C (exit status 130). Use it
    around a program's main function and, if detectron2's ``launch`` runs that function in several
    processes, around the call of ``launch`` too.
    """
    try:
        yield
    except UserError as error:
        _show(str(error))
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _show(
            f"There is no space left to write {error.filename or 'to the disk'}; free some "
            "space, then continue a training run with --resume."
        )
        sys.exit(2)
    except KeyboardInterrupt:
        _show("Interrupted.")
        sys.exit(130)
    except ProcessExitedException as error:
        # The failed process has already printed its message.
        sys.exit(error.exit_code)


def _show(message: str) -> None:
    if comm.is_main_process():
        if "--debug" in sys.argv:
            traceback.print_exc()
        print(f"error: {message}", file=sys.stderr)
