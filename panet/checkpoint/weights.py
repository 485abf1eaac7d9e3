"""Read and write files that contain only a model's weights."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from panet.utils.atomic import open_atomically
from panet.utils.errors import UserError

FORMATS = (".pth", ".safetensors")


def save_weights(path: Path, state: Mapping[str, Tensor], classes: Sequence[str] = ()) -> None:
    """Write weights atomically, in the format given by the file extension.

    Args:
        path: file ending in ".pth" or ".safetensors".
        state: tensors of the model by name.
        classes: class names of the model, if known.

    Raises:
        UserError: if ``path`` has another extension.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"{path} must end in one of {', '.join(FORMATS)}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(path) as file:
        if path.suffix == ".pth":
            torch.save({"model": dict(state), "classes": list(classes)}, file)
        else:
            tensors = {name: tensor.contiguous() for name, tensor in state.items()}
            metadata = {"classes": json.dumps(list(classes))}
            file.write(safetensors.torch.save(tensors, metadata))


def load_safetensors(path: Path) -> dict[str, Any]:
    """Read a ``.safetensors`` file as a checkpoint with the keys "model" and "classes".

    Raises:
        UserError: if the file is damaged or has another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        return {"model": state, "classes": json.loads(metadata.get("classes", "[]"))}
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file.") from error
