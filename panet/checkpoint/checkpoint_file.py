"""Reading checkpoints of PyTorch without executing anything that is in them."""

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

# Numbers of numpy, which training programs leave beside the weights, under both names that numpy
# has given to the function that makes them.
_MAKE_SCALAR = np.float64(0).__reduce__()[0]
_NUMPY_SCALARS: list[Any] = [
    (_MAKE_SCALAR, "numpy._core.multiarray.scalar"),
    (_MAKE_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(code)) for code in "?bBhHiIlLefd"),
]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What ``torch.save`` wrote, on the CPU: tensors, numbers, texts and plain containers of them.

    Args:
        path: a file of any version of PyTorch.

    Raises:
        UserError: if there is no such file, if it is damaged or no checkpoint, or if it holds
            anything that would have to be executed.
    """
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}.")
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the age of the format
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused is None:
            raise UserError(f"{path} is damaged or no checkpoint of PyTorch.") from error
        raise UserError(
            f"{path} is not read, because it holds {refused[1]}, which is no plain data and could "
            "execute code; save its tensors alone."
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError, OSError) as error:
        raise UserError(f"{path} is damaged or no checkpoint of PyTorch.") from error
    if not isinstance(checkpoint, Mapping):
        raise UserError(f"{path} holds a {type(checkpoint).__name__} instead of named tensors.")
    return dict(checkpoint)


def split_checkpoint(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """The model's tensors of a checkpoint, and the names of whatever else it holds.

    The tensors may lie under "model" or "state_dict", as training programs leave them, or at the
    top; the prefix that data-parallel training adds to their names is taken off.

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
