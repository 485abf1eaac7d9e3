"""Converting other systems' checkpoints into this project's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detectron2.modeling import build_model
from torch import Size, Tensor

from panet.checkpoint.checkpoint_file import load_checkpoint, split_checkpoint
from panet.config import load_config
from panet.config_files import get_config_file
from panet.utils.errors import UserError

from .source import Source, Tensors


@dataclass(frozen=True)
class Conversion:
    """A converted checkpoint.

    Attributes:
        state: the model's state, complete.
        dropped: what of the original is not in it, a line each.
        config_file: path of the configuration that builds the model.
        overrides: keys and values in turn that it takes beside the file.
    """

    state: Tensors
    dropped: list[str]
    config_file: str
    overrides: list[str]


def convert_file(
    path: Path, source: Source, config_file: str = "", overrides: Sequence[str] = ()
) -> Conversion:
    """Convert a checkpoint, see :func:`convert`.

    Args:
        path: the checkpoint, see :func:`load_checkpoint`.
        source, config_file, overrides: see :func:`convert`.

    Raises:
        UserError: if the file cannot be read or its model not be converted.
    """
    tensors, others = split_checkpoint(load_checkpoint(path))
    try:
        conversion = convert(tensors, source, config_file, overrides)
    except UserError as error:
        raise UserError(f"{path} cannot be converted: {error}") from error
    dropped = [f"{name}: not part of the model" for name in others]
    return replace(conversion, dropped=dropped + conversion.dropped)


def convert(
    tensors: Mapping[str, Tensor],
    source: Source,
    config_file: str = "",
    overrides: Sequence[str] = (),
) -> Conversion:
    """Convert a model's tensors, making sure that they fill the model.

    Args:
        tensors: by the names of ``source``.
        source: the system that they come from.
        config_file: the configuration that describes the model; by default that of the published
            model which it looks like.
        overrides: keys and values in turn.

    Raises:
        UserError: if the model is not one of those that ``source`` publishes, or if the tensors
            do not fill it exactly; with every missing, additional and misshaped parameter.
    """
    options = list(overrides)
    if not config_file:
        name, recognized = source.recognize(tensors)
        config_file, options = get_config_file(name), recognized + options
    dropped: list[str] = []
    state: Tensors = {}
    for name, tensor in tensors.items():
        target = source.rename(name)
        if target is None:
            dropped.append(f"{name}: unknown here")
        else:
            state[target] = tensor
    for target, what in source.adapt(state).items():
        dropped.append(f"{source.original_name(target)}: {what}")
    cfg = load_config(config_file, ["MODEL.DEVICE", "cpu", *options])
    model_state = build_model(cfg).state_dict()
    shapes = {name: tensor.shape for name, tensor in model_state.items()}
    differences = _differences(source, state, shapes)
    if differences:
        listed = "\n  ".join(differences)
        raise UserError(f"it does not fit the model of {config_file}:\n  {listed}")
    ordered = {name: state[name].clone() for name in model_state}
    return Conversion(ordered, dropped, config_file, options)


def _differences(source: Source, state: Tensors, shapes: Mapping[str, Size]) -> list[str]:
    """A line for every parameter that is in only one of them, or of another shape."""

    def both_names(name: str) -> str:
        return f"{source.original_name(name) or '-'} ({name} here)"

    lines = [f"{both_names(name)} is missing" for name in shapes if name not in state]
    for name, tensor in state.items():
        if name not in shapes:
            lines.append(f"{both_names(name)} is not in the model")
        elif tensor.shape != shapes[name]:
            lines.append(f"{both_names(name)} is {tuple(tensor.shape)}, not {tuple(shapes[name])}")
    return lines
