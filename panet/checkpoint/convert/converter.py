"""Convert checkpoints of other projects to this project's format."""

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
        state: complete ``state_dict`` of the model.
        dropped: a line for each part of the original that was dropped.
        config_file: path of the configuration of the model.
        overrides: overrides of ``config_file``, as alternating keys and values.
    """

    state: Tensors
    dropped: list[str]
    config_file: str
    overrides: list[str]


def convert_file(
    path: Path, source: Source, config_file: str = "", overrides: Sequence[str] = ()
) -> Conversion:
    """Convert a checkpoint file.

    Args:
        path: checkpoint file, see :func:`load_checkpoint`.
        source, config_file, overrides: see :func:`convert`.

    Raises:
        UserError: if the file cannot be read or converted.
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
    """Convert the tensors of a model and check that they match the model exactly.

    Args:
        tensors: tensors by the names of ``source``.
        source: project that the tensors come from.
        config_file: configuration of the model; by default that of the published model it
            resembles.
        overrides: overrides of the configuration, as alternating keys and values.

    Raises:
        UserError: if the model is not one that ``source`` publishes, or if the tensors do not match
            it; lists all missing, unexpected and wrongly shaped tensors.
    """
    options = list(overrides)
    if not config_file:
        name, recognized = source.recognize(tensors)
        config_file, options = get_config_file(name), recognized + options
    dropped: list[str] = []
    unknown: list[str] = []
    state: Tensors = {}
    for name, tensor in tensors.items():
        target = source.rename(name)
        if target is not None:
            state[target] = tensor
        elif name.startswith(source.network):
            unknown.append(f"{name} has no counterpart here")
        else:
            dropped.append(f"{name}: not part of the model")
    for target, what in source.adapt(state).items():
        dropped.append(f"{source.original_name(target)}: {what}")
    cfg = load_config(config_file, ["MODEL.DEVICE", "cpu", *options])
    model_state = build_model(cfg).state_dict()
    shapes = {name: tensor.shape for name, tensor in model_state.items()}
    if differences := unknown + _differences(source, state, shapes):
        listed = "\n  ".join(differences)
        raise UserError(f"it does not fit the model of {config_file}:\n  {listed}")
    ordered = {name: state[name].clone() for name in model_state}
    return Conversion(ordered, dropped, config_file, options)


def _differences(source: Source, state: Tensors, shapes: Mapping[str, Size]) -> list[str]:
    """Describe every missing, unexpected and wrongly shaped tensor in one line."""

    def both_names(name: str) -> str:
        return f"{source.original_name(name) or '-'} ({name} here)"

    lines = [f"{both_names(name)} is missing" for name in shapes if name not in state]
    for name, tensor in state.items():
        if name not in shapes:
            lines.append(f"{both_names(name)} is not in the model")
        elif tensor.shape != shapes[name]:
            lines.append(f"{both_names(name)} is {tuple(tensor.shape)}, not {tuple(shapes[name])}")
    return lines
