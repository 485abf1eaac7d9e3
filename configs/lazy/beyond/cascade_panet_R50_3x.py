from detectron2 import model_zoo

from panet.modeling import CascadePANetROIHeads

from ..panet_R50_1x import dataloader, model, optimizer, train

_stages = model_zoo.get_config("common/models/cascade_rcnn.py").model.roi_heads

model.proposal_generator.post_nms_topk = (2000, 1000)
model.roi_heads.update(
    _target_=CascadePANetROIHeads,
    box_heads=[model.roi_heads.box_head] * 3,
    box_predictors=_stages.box_predictors,
    proposal_matchers=_stages.proposal_matchers,
)
for _name in ("box_head", "box_predictor", "proposal_matcher"):
    model.roi_heads.pop(_name)

lr_multiplier = model_zoo.get_config("common/coco_schedule.py").lr_multiplier_3x
train.max_iter = 270_000
