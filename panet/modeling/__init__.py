"""The network, in the order of its forward pass: pyramid, pooler, box head, mask head."""

from .anchors import DetectronAnchorGenerator
from .box_head import PANetBoxHead
from .fusion import FusedFirstLayer
from .mask_head import FullyConnectedBranch, PANetMaskHead
from .mmdet_pafpn import MMDetPAFPN, build_resnet_mmdet_pafpn_backbone
from .pafpn import PAFPN, build_resnet_pafpn_backbone, build_retinanet_resnet_pafpn_backbone
from .pooler import AllLevelPooler, AssignedLevelPooler
from .roi_heads import PANetROIHeads

__all__ = [
    "PAFPN",
    "AllLevelPooler",
    "AssignedLevelPooler",
    "DetectronAnchorGenerator",
    "FullyConnectedBranch",
    "FusedFirstLayer",
    "MMDetPAFPN",
    "PANetBoxHead",
    "PANetMaskHead",
    "PANetROIHeads",
    "build_resnet_mmdet_pafpn_backbone",
    "build_resnet_pafpn_backbone",
    "build_retinanet_resnet_pafpn_backbone",
]
