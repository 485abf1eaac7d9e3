"""Attributes are replaced, and put back."""

import threading
from types import SimpleNamespace

import pytest

from panet.compat.patching import patched


def test_puts_back_what_was_there_after_an_error_too() -> None:
    owner = SimpleNamespace(there=1)
    with patched(owner, "there", 2), patched(owner, "new", 3):
        assert vars(owner) == {"there": 2, "new": 3}
    assert vars(owner) == {"there": 1}
    with pytest.raises(KeyError), patched(owner, "there", 2), patched(owner, "new", 3):
        raise KeyError
    assert vars(owner) == {"there": 1}


def test_one_inside_the_other() -> None:
    owner = SimpleNamespace(there=1)
    with patched(owner, "there", 2):
        with patched(owner, "there", 3):
            assert owner.there == 3
        assert owner.there == 2
    assert owner.there == 1


def test_threads_take_turns() -> None:
    owner = SimpleNamespace(there=0)
    seen: list[tuple[int, int]] = []
    inside = threading.Event()

    def patch(value: int) -> None:
        with patched(owner, "there", value):
            inside.set()
            for _ in range(20):
                threading.Event().wait(0.001)
                seen.append((value, owner.there))

    threads = [threading.Thread(target=patch, args=(value,)) for value in (1, 2)]
    threads[0].start()
    inside.wait()
    threads[1].start()
    for thread in threads:
        thread.join()
    assert len(seen) == 40
    assert all(value == found for value, found in seen)
    assert owner.there == 0
