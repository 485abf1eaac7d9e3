# Learns the built-in shapes dataset from random weights on 2 CPU cores.
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from ..common.data.coco import dataloader
from ..common.models.panet_fpn import model
from ..common.optim import adamw as optimizer
from ..common.train import train

model.pixel_std = [57.375, 57.120, 58.395]
model.backbone.out_channels = 64
model.backbone.bottom_up.freeze_at = 0
model.backbone.bottom_up.stem.norm = "BN"
model.backbone.bottom_up.stages.pop("stride_in_1x1")  # only for bottleneck blocks
model.backbone.bottom_up.stages.update(depth=18, norm="BN")

model.proposal_generator.head.update(in_channels=64, num_anchors=1)
model.proposal_generator.anchor_generator.update(
    sizes=[[16], [32], [64], [128], [256]], aspect_ratios=[1.0]
)
model.proposal_generator.update(
    pre_nms_topk=(500, 300), post_nms_topk=(200, 100), batch_size_per_image=128
)

model.roi_heads.update(num_classes=4, batch_size_per_image=64, positive_fraction=0.5)
model.roi_heads.box_head.update(conv_dims=[], fc_dims=[256, 256], recompute=False)
model.roi_heads.box_head.input_shape.channels = 64
model.roi_heads.box_predictor.input_shape.channels = 256
model.roi_heads.box_predictor.test_topk_per_image = 50
model.roi_heads.mask_head.update(conv_dims=[64, 64, 64, 64, 64], recompute=False)
model.roi_heads.mask_head.input_shape.channels = 64

dataloader.train.dataset.names = "shapes_train"
dataloader.train.mapper.instance_mask_format = "bitmask"
dataloader.train.mapper.augmentations[0].short_edge_length = (256,)
dataloader.train.update(total_batch_size=4, num_workers=0)
dataloader.test.dataset.names = "shapes_val"
dataloader.test.mapper.augmentations[0].short_edge_length = 256
dataloader.test.num_workers = 0

optimizer.lr = 0.0025
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.0),
    warmup_length=50 / 540,
    warmup_method="linear",
    warmup_factor=0.001,
)

train.max_iter = 540
train.amp = {"enabled": True, "dtype": "bfloat16"}
train.checkpointer.period = 200
train.eval_optimize = {"enabled": True}
train.seed = 1
