from .common.schedule import lr_multiplier_2x as lr_multiplier
from .panet_R50_1x import dataloader, model, optimizer, train

train.max_iter = 180_000
