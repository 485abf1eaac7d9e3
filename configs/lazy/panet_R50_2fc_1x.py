# The fastest variant: two fc layers in the box head, and no normalization except the backbone's
# frozen one.
from .panet_R50_1x import dataloader, lr_multiplier, model, optimizer, train

model.backbone.update(norm="", path_norm="")
model.roi_heads.box_head.update(conv_dims=[], fc_dims=[1024, 1024], conv_norm="")
model.roi_heads.mask_head.conv_norm = ""
