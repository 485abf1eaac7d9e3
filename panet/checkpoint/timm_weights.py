"""Files of timm's models, as timm's own programs and its hub have them."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from panet.modeling.backbones.timm import TimmBackbone


def rename_timm_weights(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors of a timm model under the names that they have in a timm backbone.

    Args:
        model: that the tensors are for.
        state: the timm model's, classifier included.

    Returns:
        The backbone's tensors by their names in ``model``; None if it has no timm backbone, or
        most of the tensors are not of one.
    """
    for prefix, module in model.named_modules():
        if isinstance(module, TimmBackbone):
            own = {_plain(name): name for name in module.network.state_dict()}
            known = {_plain(name): tensor for name, tensor in state.items() if _plain(name) in own}
            if len(known) > len(state) / 2:
                return {f"{prefix}.network.{own[key]}": tensor for key, tensor in known.items()}
    return None


def _plain(name: str) -> str:
    """What a name and its like in one of timm's feature extractors have in common.

    These call stages.0 stages_0, or put everything below another module.
    """
    return re.sub(r"^(model|body)\.", "", name).replace("_", ".")
