"""Files that hold a model's weights and nothing to train it further."""

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
    """Write weights in the format that the file's name ends in, a whole file or none.

    Args:
        path: ends in ".pth" or ".safetensors".
        state: a model's tensors by name.
        classes: the names of the classes that it tells apart, if they are known.

    Raises:
        UserError: if it ends in neither.
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
    """The weights in a ``.safetensors`` file, as detectron2's checkpointers take them.

    Raises:
        UserError: if the file is damaged or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        return {"model": state, "classes": json.loads(metadata.get("classes", "[]"))}
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} is damaged or no file of safetensors.") from error
