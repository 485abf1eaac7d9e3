from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import FastRCNNOutputLayers

from panet.modeling import CascadePANetROIHeads

from ..common.schedule import lr_multiplier_3x as lr_multiplier
from ..panet_R50_1x import dataloader, model, optimizer, train

_head = model.roi_heads.pop("box_head")
for _name in ("box_predictor", "proposal_matcher"):
    model.roi_heads.pop(_name)

model.proposal_generator.post_nms_topk = (2000, 1000)
model.roi_heads.update(
    _target_=CascadePANetROIHeads,
    box_heads=[_head] * 3,
    box_predictors=[
        L(FastRCNNOutputLayers)(
            input_shape=ShapeSpec(channels=1024),
            num_classes="${...num_classes}",
            cls_agnostic_bbox_reg=True,
            box2box_transform=L(Box2BoxTransform)(weights=(xy, xy, wh, wh)),
            test_score_thresh=0.05,
        )
        for xy, wh in ((10, 5), (20, 10), (30, 15))
    ],
    proposal_matchers=[
        L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False)
        for iou in (0.5, 0.6, 0.7)
    ],
)

train.max_iter = 270_000
