"""Transfer prediction heads to a dataset with other classes."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from panet.utils.errors import UserError

# Class-specific layers, by the end of their name: output rows per class and for the background.
_LAYERS = {"cls_score": (1, 1), "bbox_pred": (4, 0), "mask_head.predictor": (1, 0)}


def match_classes(
    classes: Sequence[str],
    source_classes: Sequence[str],
    synonyms: Sequence[Sequence[str]] = (),
    *,
    synonyms_key: str = "MODEL.CLASS_TRANSFER.SYNONYMS",
) -> dict[str, str]:
    """Map the model's classes to the checkpoint's classes; unmatched classes are left out.

    Args:
        classes: classes of the model.
        source_classes: classes of the checkpoint.
        synonyms: pairs of a class of the model and its name in the checkpoint. Several classes of
            the model may be paired with the same class of the checkpoint.
        synonyms_key: configuration key of ``synonyms``, for error messages.

    Raises:
        UserError: if a synonym is not a pair or names an unknown class.
    """
    counterparts = {name: name for name in classes if name in source_classes}
    for pair in synonyms:
        if len(pair) != 2 or pair[0] not in classes or pair[1] not in source_classes:
            raise UserError(
                f"{synonyms_key} has {pair}; each item must be a pair of a class of the model and "
                "a class of the checkpoint."
            )
        counterparts[pair[0]] = pair[1]
    return counterparts


def transfer_classes(
    state: dict[str, Any],
    model_state: Mapping[str, Tensor],
    classes: Sequence[str],
    source_classes: Sequence[str],
    counterparts: Mapping[str, str],
    *,
    source_dataset_key: str = "MODEL.CLASS_TRANSFER.SOURCE_DATASET",
) -> None:
    """Rearrange the prediction heads of a checkpoint, in place, for a model with other classes.

    Matched classes get the weights of their counterpart and the background keeps its weights; all
    other classes get the model's current weights. Class-agnostic layers are not changed.

    Args:
        state: tensors of the checkpoint.
        model_state: tensors of the model.
        classes: classes of the model, in order.
        source_classes: classes of the checkpoint, in order.
        counterparts: from :func:`match_classes`.
        source_dataset_key: configuration key of the checkpoint's dataset, for error messages.

    Raises:
        UserError: if a layer of the checkpoint does not have the rows of ``source_classes``.
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
                f"{name} of the checkpoint has {len(tensor)} rows, which does not fit "
                f"{len(source_classes)} classes; set {source_dataset_key} to the dataset it was "
                "trained on."
            )
        if len(model_state[name]) != len(classes) * per_class + background:
            continue  # class-agnostic in the model
        fitted = model_state[name].clone()
        for own, counterpart in counterparts.items():
            to = classes.index(own) * per_class
            source = source_classes.index(counterpart) * per_class
            fitted[to : to + per_class] = tensor[source : source + per_class]
        if background:
            fitted[-background:] = tensor[-background:]
        state[name] = fitted
