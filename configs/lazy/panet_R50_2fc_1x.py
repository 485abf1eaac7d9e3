# The fastest: no norm but the backbone's frozen one, and two fc layers in the box head.
from .panet_R50_1x import dataloader, lr_multiplier, model, optimizer, train

model.backbone.update(norm="", path_norm="")
model.roi_heads.box_head.update(conv_dims=[], fc_dims=[1024, 1024], conv_norm="")
model.roi_heads.mask_head.conv_norm = ""
