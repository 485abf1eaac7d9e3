"""Temporarily replace an attribute of another package."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ABSENT = object()
_lock = threading.RLock()


@contextmanager
def patched(owner: Any, name: str, value: object) -> Iterator[None]:
    """Set ``owner.name`` to ``value`` within the context and restore it afterwards.

    A lock lets only one thread patch at a time, so that none restores the value of another. Other
    threads that read the attribute see ``value``.

    Args:
        owner: module or class.
        name: attribute name; the attribute need not exist.
        value: temporary value.
    """
    with _lock:
        former = vars(owner).get(name, _ABSENT)
        setattr(owner, name, value)
        try:
            yield
        finally:
            if former is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, former)
