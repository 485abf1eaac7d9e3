"""Checks of configuration values that name one of several options."""

import difflib
from collections.abc import Collection, Iterable

from .errors import UserError


def check_choice(key: str, value: str, allowed: Collection[str]) -> str:
    """Return ``value`` if it is one of ``allowed``.

    Args:
        key: configuration key for the error message, e.g. ``MODEL.PAFPN.NORM``.
        value: the given value.
        allowed: all valid values.

    Raises:
        UserError: if ``value`` is not allowed; names the key, the value and the allowed values.
    """
    if value not in allowed:
        raise UserError(f"{key} is {value!r}; it must be one of {', '.join(map(repr, allowed))}.")
    return value


def closest(name: str, known: Iterable[str], count: int = 3, similarity: float = 0.0) -> list[str]:
    """Return the known names spelled most like ``name``, for error messages.

    Args:
        name: the unknown name.
        known: all known names.
        count: maximum number of names to return.
        similarity: minimum similarity, from 0 to 1.
    """
    return difflib.get_close_matches(name, list(known), n=count, cutoff=similarity)
