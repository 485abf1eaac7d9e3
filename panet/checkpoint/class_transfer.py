"""Fitting the heads of one set of classes to another."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from panet.utils.errors import UserError


class _Rows(NamedTuple):
    """How the output of a layer is made up."""

    per_class: int
    background: int


# By the end of the layer's name.
_LAYERS = {
    "cls_score": _Rows(per_class=1, background=1),
    "bbox_pred": _Rows(per_class=4, background=0),
    "mask_head.predictor": _Rows(per_class=1, background=0),
}


def match_classes(
    classes: Sequence[str], source_classes: Sequence[str], synonyms: Sequence[Sequence[str]] = ()
) -> dict[str, str]:
    """For every class that has a counterpart, the counterpart's name.

    Args:
        classes: the model's.
        source_classes: the checkpoint's.
        synonyms: pairs of the model's and the checkpoint's name of the same thing. A class of the
            checkpoint may stand for several of the model.

    Raises:
        UserError: if a synonym is no pair, or names a class that there is not.
    """
    counterparts = {name: name for name in classes if name in source_classes}
    for pair in synonyms:
        if len(pair) != 2 or pair[0] not in classes or pair[1] not in source_classes:
            raise UserError(
                f"MODEL.CLASS_TRANSFER.SYNONYMS has {pair}; it must be a class of the model and "
                "one of the checkpoint."
            )
        counterparts[pair[0]] = pair[1]
    return counterparts


def transfer_classes(
    state: dict[str, Any],
    model_state: Mapping[str, Tensor],
    classes: Sequence[str],
    source_classes: Sequence[str],
    counterparts: Mapping[str, str],
) -> None:
    """Make the heads of a checkpoint, in place, those of a model with other classes.

    Classes with a counterpart get its weights, and the background keeps its own; the others keep
    what the model has. Layers that do not tell classes apart stay as they are.

    Args:
        state: the checkpoint's tensors.
        model_state: the model's.
        classes: the model's, in order.
        source_classes: the checkpoint's, in order.
        counterparts: from :func:`match_classes`.

    Raises:
        UserError: if a layer of the checkpoint is not made for ``source_classes``.
    """
    for name, tensor in state.items():
        layer = name.rpartition(".")[0]
        rows = next((rows for end, rows in _LAYERS.items() if layer.endswith(end)), None)
        if rows is None or name not in model_state:
            continue
        per_class, background = rows
        if len(tensor) == per_class < len(source_classes) * per_class:
            continue  # class-agnostic
        if len(tensor) != len(source_classes) * per_class + background:
            raise UserError(
                f"{name} of the checkpoint has {len(tensor)} rows, which is not what "
                f"{len(source_classes)} classes need; is MODEL.CLASS_TRANSFER.SOURCE_DATASET the "
                "dataset that it was trained on?"
            )
        if len(model_state[name]) != len(classes) * per_class + background:
            continue  # class-agnostic here
        fitted = model_state[name].clone()
        for own, counterpart in counterparts.items():
            to, source = classes.index(own), source_classes.index(counterpart)
            fitted[to * per_class : (to + 1) * per_class] = tensor[
                source * per_class : (source + 1) * per_class
            ]
        if background:
            fitted[-background:] = tensor[-background:]
        state[name] = fitted
