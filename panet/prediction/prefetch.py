"""Prefetching with threads."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")


def read_ahead(
    jobs: Iterable[Callable[[], T]], threads: int, ahead: int
) -> Generator[T, None, None]:
    """Yield the results of jobs in order while threads compute the next ones.

    Decoding and resizing release the GIL, so threads suffice. Unlike processes they need no shared
    memory and end with the program.

    Args:
        jobs: iterable of jobs, consumed by a separate thread.
        threads: number of concurrent jobs.
        ahead: maximum number of results to hold ready.

    Raises:
        Exception: any exception of ``jobs`` or of a job.
    """
    results: Queue[Future[T] | None] = Queue(maxsize=ahead)
    stopped = Event()

    def put(result: Future[T] | None) -> bool:
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
                if not put(pool.submit(job)):
                    break
        except BaseException as error:
            failed: Future[T] = Future()
            failed.set_exception(error)
            put(failed)
        finally:
            put(None)

    with ThreadPoolExecutor(threads) as pool:
        submitter = Thread(target=submit_all, daemon=True)
        submitter.start()
        try:
            while (result := results.get()) is not None:
                yield result.result()
        finally:
            stopped.set()
            submitter.join()
            pool.shutdown(cancel_futures=True)
