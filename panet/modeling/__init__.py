"""The network, in the order of its forward pass: pyramid, pooler, box head, mask head."""

from .anchors import DetectronAnchorGenerator
from .backbones.deformable import DeformConv, make_deformable
from .backbones.timm import TimmBackbone, build_timm_backbone
from .box_head import PANetBoxHead
from .fusion import FusedFirstLayer
from .independent_rpn import IndependentRPN
from .mask_head import FullyConnectedBranch, PANetMaskHead
from .mmdet_pafpn import MMDetPAFPN, build_resnet_mmdet_pafpn_backbone
from .pafpn import (
    PAFPN,
    build_resnet_pafpn_backbone,
    build_retinanet_resnet_pafpn_backbone,
    build_timm_pafpn_backbone,
)
from .pooler import AllLevelPooler, AssignedLevelPooler
from .roi_heads import CascadePANetROIHeads, PANetROIHeads

__all__ = [
    "PAFPN",
    "AllLevelPooler",
    "AssignedLevelPooler",
    "CascadePANetROIHeads",
    "DeformConv",
    "DetectronAnchorGenerator",
    "FullyConnectedBranch",
    "FusedFirstLayer",
    "IndependentRPN",
    "MMDetPAFPN",
    "PANetBoxHead",
    "PANetMaskHead",
    "PANetROIHeads",
    "TimmBackbone",
    "build_resnet_mmdet_pafpn_backbone",
    "build_resnet_pafpn_backbone",
    "build_retinanet_resnet_pafpn_backbone",
    "build_timm_backbone",
    "build_timm_pafpn_backbone",
    "make_deformable",
]
