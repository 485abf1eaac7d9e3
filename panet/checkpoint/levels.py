"""First layers of heads: one in Mask R-CNN, one per level with adaptive feature pooling."""

import re
from collections.abc import Iterable
from typing import Any


def copy_to_levels(state: dict[str, Any], names: Iterable[str]) -> list[str]:
    """Copy the tensors of a head's single first layer to its copies for each level, in place.

    Args:
        state: tensors of a checkpoint by name, e.g. "roi_heads.box_head.fc1.weight".
        names: names of the model's tensors, e.g. "roi_heads.box_head.fc1.levels.0.weight".

    Returns:
        The names that were copied.
    """
    copied: dict[str, None] = {}
    for name in names:
        if found := re.fullmatch(r"(.+)\.levels\.\d+\.(.+)", name):
            single = f"{found[1]}.{found[2]}"
            if single in state and name not in state:
                state[name] = state[single]
                copied[single] = None
    for name in copied:
        del state[name]
    return list(copied)
