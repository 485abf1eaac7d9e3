"""Work in the background keeps its order and its bound, and its errors are not lost."""

import threading
import time
from collections.abc import Callable

import pytest

from panet.utils.background import Background


def fail() -> None:
    raise OSError("broken")


def test_things_are_done_in_order_in_another_thread() -> None:
    done: list[tuple[int, threading.Thread]] = []

    def do(number: int) -> None:
        time.sleep(0.01 * (3 - number % 4))
        done.append((number, threading.current_thread()))

    with Background() as background:
        for number in range(12):
            background.submit(do, number)
            assert len(done) >= number  # at most one is under way
    numbers, threads = zip(*done)
    assert numbers == tuple(range(12))
    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()
    assert not threads[0].is_alive()


def test_whoever_submits_goes_on() -> None:
    may_end, ended = threading.Event(), threading.Event()

    def do() -> None:
        may_end.wait(10)
        ended.set()

    with Background() as background:
        background.submit(do)
        assert not ended.is_set()
        may_end.set()
        background.wait()
        assert ended.is_set()
        background.wait()  # for nothing


@pytest.mark.parametrize(
    "next_step",
    [
        lambda background, done: background.submit(done.append, 1),
        lambda background, done: background.wait(),
        lambda background, done: None,
    ],
)
def test_errors_come_at_the_next_step(
    next_step: Callable[[Background, list[int]], None],
) -> None:
    done: list[int] = []
    threads = threading.active_count()
    with pytest.raises(OSError, match="broken"), Background() as background:  # noqa: PT012
        background.submit(fail)
        next_step(background, done)
    assert done == []
    assert threading.active_count() == threads


def test_an_error_in_the_foreground_is_the_one_that_counts() -> None:
    done: list[int] = []
    threads = threading.active_count()

    def slowly() -> None:
        time.sleep(0.05)
        done.append(1)

    with pytest.raises(KeyboardInterrupt), Background() as background:  # noqa: PT012
        background.submit(slowly)
        raise KeyboardInterrupt
    assert done == [1]  # nothing is left half done
    assert threading.active_count() == threads
    with pytest.raises(KeyboardInterrupt), Background() as background:  # noqa: PT012
        background.submit(fail)
        raise KeyboardInterrupt
