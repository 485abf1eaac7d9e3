"""Reading in the background."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")


def read_ahead(
    jobs: Iterable[Callable[[], T]], threads: int, ahead: int
) -> Generator[T, None, None]:
    """The results of jobs, in their order, while the next ones are computed by other threads.

    Decoding and resizing let other threads run meanwhile, so threads do here. Unlike processes they
    need no shared memory and end with the program.

    Args:
        jobs: consumed by a thread of its own.
        threads: how many jobs to do at a time.
        ahead: how many results to have ready at most.

    Raises:
        Exception: whatever ``jobs`` or one of them raises.
    """
    results: Queue[Future[T] | None] = Queue(maxsize=ahead)
    stopped = Event()
    failures: list[BaseException] = []

    def hand_over(result: Future[T] | None) -> bool:
        while not stopped.is_set():
            try:
                results.put(result, timeout=0.1)
            except Full:
                continue
            return True
        return False

    def submit_all() -> None:
        try:
            for job in jobs:
                if not hand_over(pool.submit(job)):
                    break
        except BaseException as error:
            failures.append(error)
        finally:
            hand_over(None)

    with ThreadPoolExecutor(threads) as pool:
        submitter = Thread(target=submit_all, daemon=True)
        submitter.start()
        try:
            while (result := _next(results)) is not None:
                yield result.result()
            if failures:
                raise failures[0]
        finally:
            stopped.set()
            submitter.join()
            pool.shutdown(cancel_futures=True)


def _next(results: "Queue[Future[T] | None]") -> "Future[T] | None":
    """Wait in short steps: a thread that waits without end does not notice Ctrl-C everywhere."""
    while True:
        try:
            return results.get(timeout=1.0)
        except Empty:
            continue
