"""Finishing one thing while the next is computed."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any


class Background:
    """Another thread, which does one thing after the other, in the order of their submission.

    Whoever submits one waits until the one before is done, so at most one is under way: memory
    stays bounded, and after an interruption little is lost. As a context it ends the thread, and
    without an error waits for what is under way; after one this is finished all the same.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._under_way: Future[Any] | None = None

    def submit(self, function: Callable[..., Any], *args: Any) -> None:
        """Have a function called, once what was submitted before is done.

        Raises:
            BaseException: whatever the one before raised. The new one is not called then.
        """
        self.wait()
        self._under_way = self._pool.submit(function, *args)

    def wait(self) -> None:
        """Wait until all is done.

        Raises:
            BaseException: whatever was raised by what was under way.
        """
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def __enter__(self) -> "Background":
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.wait()
        finally:
            self._pool.shutdown()
