"""Errors that whoever started the program can mend."""

import argparse
import errno
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.utils import comm
from torch.multiprocessing.spawn import ProcessExitedException


class UserError(ValueError):
    """A file, a configuration key or an argument is wrong; the message says which and what to do.

    Programs of this project show the message alone, without a traceback.
    """


class DownloadError(UserError, OSError):
    """A file that should come over the network does not."""


def add_debug_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--debug``, with which :func:`exit_on_user_error` shows tracebacks."""
    parser.add_argument("--debug", action="store_true", help="show tracebacks of all errors")


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """End the program with one line on standard error instead of a traceback.

    So do an :class:`UserError` and a full disk, with status 2, and Ctrl-C, with status 130. It
    goes around a program's main function and, where detectron2's ``launch`` runs that in several
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
            f"There is no space left to write {error.filename or 'to the disk'}; make room, then "
            "go on with --resume if it was a training."
        )
        sys.exit(2)
    except KeyboardInterrupt:
        _show("Interrupted.")
        sys.exit(130)
    except ProcessExitedException as error:
        # The process that ended has said why.
        sys.exit(error.exit_code)


def _show(message: str) -> None:
    if comm.is_main_process():
        if "--debug" in sys.argv:
            traceback.print_exc()
        print(f"error: {message}", file=sys.stderr)
