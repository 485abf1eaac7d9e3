"""Load weights of timm models, as saved by timm or published on its hub."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from panet.modeling.backbones.timm import TimmBackbone


def rename_timm_weights(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Rename the tensors of a timm model to their names in a model with a timm backbone.

    Args:
        model: model to load the tensors into.
        state: tensors of the timm model, including its classifier.

    Returns:
        The backbone's tensors by their names in ``model``; None if ``model`` has no timm backbone
        or less than half of ``state`` belongs to it.
    """
    for prefix, module in model.named_modules():
        if isinstance(module, TimmBackbone):
            own = {_normalize(name): name for name in module.network.state_dict()}
            known = {
                f"{prefix}.network.{own[key]}": tensor
                for name, tensor in state.items()
                if (key := _normalize(name)) in own
            }
            if len(known) > len(state) / 2:
                return known
    return None


def _normalize(name: str) -> str:
    """Make names of a timm model and of timm's feature extractors comparable.

    The extractors rename stages.0 to stages_0 or wrap the model in another module.
    """
    return re.sub(r"^(model|body)\.", "", name).replace("_", ".")
