"""Reading in the background keeps the order, passes errors on, and ends."""

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from panet.prediction.prefetch import read_ahead


def slowly(number: int) -> int:
    time.sleep(0.01 * (3 - number % 4))
    return number


def test_the_results_come_in_order() -> None:
    jobs = [partial(slowly, number) for number in range(20)]
    assert list(read_ahead(jobs, threads=4, ahead=3)) == list(range(20))
    assert list(read_ahead([], threads=2, ahead=1)) == []


def test_it_works_ahead_but_not_far() -> None:
    taken: list[int] = []
    far = threading.Event()

    def jobs() -> Iterator[Callable[[], int]]:
        for number in range(50):
            taken.append(number)
            if number == 6:
                far.set()
            yield partial(int, number)

    results = read_ahead(jobs(), threads=2, ahead=5)
    assert next(results) == 0
    # Besides the results that were read, there are five in the queue and one that waits for room.
    assert far.wait(60)
    assert len(taken) == 1 + 5 + 1
    for number in range(1, 40):
        assert next(results) == number
        assert len(taken) <= number + 1 + 5 + 1
    results.close()


def test_closing_ends_its_threads() -> None:
    before = threading.active_count()
    results = read_ahead((partial(slowly, number) for number in range(1000)), threads=3, ahead=4)
    assert next(results) == 0
    assert threading.active_count() > before
    results.close()
    assert threading.active_count() == before


def fail() -> int:
    raise OSError("broken")


def test_errors_of_a_job_come_in_its_place() -> None:
    results = read_ahead([partial(int, 1), fail, partial(int, 2)], threads=2, ahead=4)
    assert next(results) == 1
    with pytest.raises(OSError, match="broken"):
        next(results)


def test_errors_of_the_list_of_jobs_come_at_the_end() -> None:
    def jobs() -> Iterator[Callable[[], int]]:
        yield partial(int, 1)
        fail()

    results = read_ahead(jobs(), threads=1, ahead=2)
    assert next(results) == 1
    with pytest.raises(OSError, match="broken"):
        next(results)
