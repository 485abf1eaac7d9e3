"""Checking of configuration values that name one of a few possibilities."""

import difflib
from collections.abc import Collection, Iterable

from .errors import UserError


def check_choice(key: str, value: str, allowed: Collection[str]) -> str:
    """Return ``value`` if it is one of ``allowed``.

    Args:
        key: what is being set, as the user knows it, e.g. ``MODEL.PAFPN.NORM``.
        value: the value that was given.
        allowed: every valid value.

    Raises:
        UserError: naming the key, the value and the allowed values.
    """
    if value not in allowed:
        raise UserError(f"{key} is {value!r}; it must be one of {', '.join(map(repr, allowed))}.")
    return value


def closest(name: str, known: Iterable[str], count: int = 3, similarity: float = 0.0) -> list[str]:
    """The ``count`` of ``known`` that are spelled most like ``name``, for messages.

    Args:
        name: what is not known.
        known: what is.
        count: how many.
        similarity: how much alike they are at least, from 0 to 1.
    """
    return difflib.get_close_matches(name, list(known), n=count, cutoff=similarity)
