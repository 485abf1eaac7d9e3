"""Read PyTorch checkpoints without executing code from them."""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from panet.utils.errors import UserError

# Training programs store numpy numbers beside the weights. Different numpy versions use different
# names for the function that creates them.
_MAKE_SCALAR = np.float64(0).__reduce__()[0]
_NUMPY_SCALARS: list[Any] = [
    (_MAKE_SCALAR, "numpy._core.multiarray.scalar"),
    (_MAKE_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(code)) for code in "?bBhHiIlLefd"),
]


class _Inert:
    """Takes the place of an object beside the weights, and keeps nothing of it."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


# Training curves that mmengine stores in checkpoints, and the arrays in them.
_INERT: list[Any] = [
    (_Inert, name)
    for name in (
        "mmengine.logging.history_buffer.HistoryBuffer",
        "numpy._core.multiarray._reconstruct",
        "numpy.core.multiarray._reconstruct",
        "numpy.ndarray",
    )
]

# Errors that torch.load raises for damaged files and files of other formats.
_LOAD_ERRORS = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, OSError)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a file written by ``torch.save`` onto the CPU.

    Args:
        path: checkpoint of any PyTorch version, with tensors, numbers, strings and plain
            containers of them.

    Raises:
        UserError: if the file does not exist, is damaged, is not a checkpoint, or contains objects
            that could execute code.
    """
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}.")
    try:
        with (
            torch.serialization.safe_globals([*_NUMPY_SCALARS, *_INERT]),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # about old file formats
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except _LOAD_ERRORS as error:
        reason = "is damaged or not a PyTorch checkpoint"
        if refused := re.search(r"GLOBAL ([\w.]+)", str(error)):
            reason = (
                f"is not loaded because it contains {refused[1]}, which is not plain data and "
                "could execute code; save only the tensors"
            )
        raise UserError(f"{path} {reason}.") from error
    if not isinstance(checkpoint, Mapping):
        raise UserError(f"{path} holds a {type(checkpoint).__name__} instead of named tensors.")
    return dict(checkpoint)


def split_checkpoint(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """Split a checkpoint into the model's tensors and the names of all other entries.

    The tensors can be under the key "model" or "state_dict", or at the top level. The prefix
    "module." of data-parallel training is removed from their names.

    Args:
        checkpoint: from :func:`load_checkpoint`.
    """
    key = next((k for k in ("model", "state_dict") if isinstance(checkpoint.get(k), Mapping)), None)
    state = checkpoint if key is None else checkpoint[key]
    tensors = {
        name.removeprefix("module."): value.detach()
        for name, value in state.items()
        if isinstance(value, Tensor)
    }
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if key is not None:
        others += [name for name in checkpoint if name != key]
    return tensors, others
