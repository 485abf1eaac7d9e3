"""Run functions in a background thread, one at a time."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Background:
    """A background thread that runs submitted functions in order.

    :meth:`submit` waits for the previous function, so at most one is running: this bounds memory,
    and little work is lost on an interruption. As a context manager, it waits for the running
    function on exit and shuts the thread down. If the block raised an error, the running function
    still finishes, but its own error is dropped.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[Any] | None = None

    def submit(self, function: Callable[..., Any], *args: Any) -> None:
        """Wait for the previous function, then start ``function(*args)``.

        Raises:
            BaseException: the error of the previous function; ``function`` is not called then.
        """
        self.wait()
        self._pending = self._pool.submit(function, *args)

    def wait(self) -> None:
        """Wait for the submitted function to finish.

        Raises:
            BaseException: the error of that function.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        try:
            if error is None:
                self.wait()
        finally:
            self._pool.shutdown()
