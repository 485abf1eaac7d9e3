"""Heads with one first layer for all levels, unlike PANet, where each level has its own."""

from typing import Any

from detectron2.modeling.roi_heads import ROI_BOX_HEAD_REGISTRY, ROI_MASK_HEAD_REGISTRY
from torch import nn

from panet.modeling import FusedFirstLayer, PANetBoxHead, PANetMaskHead


@ROI_BOX_HEAD_REGISTRY.register()
class SharedBoxHead(PANetBoxHead):
    """:class:`PANetBoxHead` with one first layer shared by all levels."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _share_first_layer(self)


@ROI_MASK_HEAD_REGISTRY.register()
class SharedMaskHead(PANetMaskHead):
    """:class:`PANetMaskHead` with one first layer shared by all levels."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _share_first_layer(self)


def _share_first_layer(head: nn.Module) -> None:
    for module in head.modules():
        if isinstance(module, FusedFirstLayer):
            module.levels = nn.ModuleList([module.levels[0]] * len(module.levels))
