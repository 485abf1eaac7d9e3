from .panet_R50_1x import dataloader, lr_multiplier, model, optimizer, train

for _name in ("mask_in_features", "mask_pooler", "mask_head"):
    model.roi_heads.pop(_name)
dataloader.train.mapper.use_instance_mask = False
