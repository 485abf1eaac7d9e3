"""PANet on a ResNet: detectron2's Mask R-CNN with another pyramid, poolers and heads."""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from panet.modeling import PAFPN, AllLevelPooler, PANetBoxHead, PANetMaskHead, PANetROIHeads

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model

model.backbone._target_ = PAFPN
model.backbone.norm = "GN"
model.backbone.path_norm = "GN"
model.backbone.bottom_up.freeze_at = 2

model.roi_heads._target_ = PANetROIHeads
for pooler in (model.roi_heads.box_pooler, model.roi_heads.mask_pooler):
    pooler._target_ = AllLevelPooler
    pooler.sampling_ratio = 2

model.roi_heads.box_head = L(PANetBoxHead)(
    input_shape=ShapeSpec(channels=256, height=7, width=7),
    conv_dims=[256, 256, 256, 256],
    fc_dims=[1024],
    conv_norm="GN",
    fc_norm="",
    fusion="max",
    fusion_position="after",
    recompute=True,
)
model.roi_heads.mask_head = L(PANetMaskHead)(
    input_shape=ShapeSpec(channels=256, height=14, width=14),
    num_classes="${..num_classes}",
    conv_dims=[256, 256, 256, 256, 256],
    conv_norm="GN",
    fusion="max",
    fusion_position="after",
    recompute=True,
    fc_source="conv3",
    fc_combination="sum",
    fc_relu=False,
)
