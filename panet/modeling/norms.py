"""Names of normalization layers."""

from panet.utils.choices import check_choice

NORMS = ("", "GN", "BN", "SyncBN", "naiveSyncBN", "naiveSyncBN_N", "FrozenBN", "LN")
"""What :func:`detectron2.layers.get_norm` accepts, "" for no normalization."""


def check_norm(key: str, norm: str) -> str:
    """Return ``norm`` if detectron2 knows it.

    Raises:
        ValueError: naming ``key``, the value and the allowed values.
    """
    return check_choice(key, norm, NORMS)


def check_roi_norm(key: str, norm: str) -> str:
    """The name to build a RoI head with, whose batch may be empty on some processes.

    detectron2's convolutions refuse an empty batch under "SyncBN"; "naiveSyncBN_N" is its
    variant for them, with the same parameters.

    Raises:
        ValueError: naming ``key``, the value and the allowed values.
    """
    check_norm(key, norm)
    return "naiveSyncBN_N" if norm == "SyncBN" else norm
