"""Checks of normalization layer names."""

from panet.utils.choices import check_choice

NORMS = ("", "GN", "BN", "SyncBN", "naiveSyncBN", "naiveSyncBN_N", "FrozenBN", "LN")
"""Names accepted by :func:`detectron2.layers.get_norm`; "" means no normalization."""


def check_norm(key: str, norm: str) -> str:
    """Return ``norm`` if it is one of :data:`NORMS`.

    Raises:
        UserError: if it is not; the message names ``key``, the value and the allowed values.
    """
    return check_choice(key, norm, NORMS)


def check_roi_norm(key: str, norm: str) -> str:
    """Return the norm to use in a RoI head, whose batch may be empty on some processes.

    detectron2's convolutions do not support empty batches with "SyncBN". It is replaced with
    "naiveSyncBN_N", which supports them and has the same parameters.

    Raises:
        UserError: if the norm is unknown; see :func:`check_norm`.
    """
    check_norm(key, norm)
    return "naiveSyncBN_N" if norm == "SyncBN" else norm
