"""Checking of configuration values that name one of a few possibilities."""

from collections.abc import Collection

from .errors import InputError


def check_choice(key: str, value: str, allowed: Collection[str]) -> str:
    """Return ``value`` if it is one of ``allowed``.

    Args:
        key: what is being set, as the user knows it, e.g. ``MODEL.PAFPN.NORM``.
        value: the value that was given.
        allowed: every valid value.

    Raises:
        InputError: naming the key, the value and the allowed values.
    """
    if value not in allowed:
        raise InputError(f"{key} is {value!r}; it must be one of {', '.join(map(repr, allowed))}.")
    return value
