from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BottleneckBlock, ResNet

from .panet_R50_2x import dataloader, lr_multiplier, model, optimizer, train

# make_default_stages only supports the group widths of ResNet.
model.backbone.bottom_up.stages = [
    L(ResNet.make_stage)(
        block_class=BottleneckBlock,
        num_blocks=blocks,
        stride_per_block=[stride] + [1] * (blocks - 1),
        in_channels=in_channels,
        bottleneck_channels=width,
        out_channels=width,
        num_groups=64,
        stride_in_1x1=False,
        norm="FrozenBN",
    )
    for blocks, stride, in_channels, width in (
        (3, 1, 64, 256),
        (4, 2, 256, 512),
        (23, 2, 512, 1024),
        (3, 2, 1024, 2048),
    )
]
train.init_checkpoint = "catalog://ImageNetPretrained/FAIR/X-101-64x4d"
