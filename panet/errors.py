"""Errors that whoever started the program can mend."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.utils import comm
from torch.multiprocessing.spawn import ProcessExitedException


class InputError(ValueError):
    """A file, a configuration key or an argument is wrong; the message says which and what to do.

    Programs of this project show the message alone, without a traceback.
    """


class DownloadError(InputError, OSError):
    """A file that should come over the network does not."""


@contextmanager
def exit_on_input_error() -> Iterator[None]:
    """End the program with one line on standard error and status 2 at an :class:`InputError`.

    It goes around a program's main function and, where detectron2's ``launch`` runs that in
    several processes, around the call of ``launch`` too.
    """
    try:
        yield
    except InputError as error:
        if comm.is_main_process():
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except ProcessExitedException as error:
        # The process that ended has said why.
        sys.exit(error.exit_code)
