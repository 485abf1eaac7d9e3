"""Normalization layers by name."""

from collections.abc import Callable
from functools import partial

from torch import nn

from panet.compat.detectron2_batch_norm import PreciseNaiveSyncBatchNorm
from panet.config_device import PORTABLE_SYNC_NORM
from panet.utils.choices import check_choice

NORMS = ("", "GN", "BN", "SyncBN", "naiveSyncBN", "naiveSyncBN_N", "FrozenBN", "LN")
"""Names of norms; "" means no normalization."""

Norm = str | Callable[[int], nn.Module]
"""An argument of :func:`detectron2.layers.get_norm`: a name, or a function of the channels."""

_PRECISE: dict[str, Norm] = {
    "naiveSyncBN": PreciseNaiveSyncBatchNorm,
    "naiveSyncBN_N": partial(PreciseNaiveSyncBatchNorm, stats_mode="N"),
}


def check_norm(key: str, norm: str) -> Norm:
    """Return the argument of :func:`detectron2.layers.get_norm` for one of :data:`NORMS`.

    It is ``norm``, or :class:`PreciseNaiveSyncBatchNorm` in place of detectron2's
    ``NaiveSyncBatchNorm``.

    Raises:
        UserError: if the norm is unknown; the message names ``key``, the value and the allowed
            values.
    """
    check_choice(key, norm, NORMS)
    return _PRECISE.get(norm, norm)


def check_roi_norm(key: str, norm: str) -> Norm:
    """Return the norm to use in a RoI head, whose batch may be empty on some processes.

    detectron2's convolutions do not support empty batches with "SyncBN", so it is replaced with
    :data:`panet.config_device.PORTABLE_SYNC_NORM`.

    Raises:
        UserError: if the norm is unknown; see :func:`check_norm`.
    """
    check_norm(key, norm)
    return check_norm(key, PORTABLE_SYNC_NORM if norm == "SyncBN" else norm)
