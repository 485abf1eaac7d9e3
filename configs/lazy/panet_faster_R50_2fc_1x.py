from .panet_faster_R50_1x import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.box_head.update(conv_dims=[], fc_dims=[1024, 1024])
