"""The network, in the order of its forward pass: pyramid, pooler, box head, mask head."""

from .box_head import PANetBoxHead
from .fusion import FusedFirstLayer
from .mask_head import FullyConnectedBranch, PANetMaskHead
from .pafpn import PAFPN, build_resnet_pafpn_backbone, build_retinanet_resnet_pafpn_backbone
from .pooler import AllLevelPooler, AssignedLevelPooler
from .roi_heads import PANetROIHeads

__all__ = [
    "PAFPN",
    "AllLevelPooler",
    "AssignedLevelPooler",
    "FullyConnectedBranch",
    "FusedFirstLayer",
    "PANetBoxHead",
    "PANetMaskHead",
    "PANetROIHeads",
    "build_resnet_pafpn_backbone",
    "build_retinanet_resnet_pafpn_backbone",
]
