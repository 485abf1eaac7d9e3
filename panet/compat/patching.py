"""Replacing an attribute of another package for a while."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ABSENT = object()
_lock = threading.RLock()


@contextmanager
def patched(owner: Any, name: str, value: object) -> Iterator[None]:
    """Have ``owner.name`` be ``value`` until the context is left, by an error too.

    Other threads wait to patch anything until then, so that none restores what another has put
    there. Those that do not patch see ``value``.

    Args:
        owner: a module or a class.
        name: of its attribute, which need not be there.
        value: what to put there.
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
