from .common.data.coco import dataloader
from .common.models.panet_fpn import model
from .common.optim import sgd as optimizer
from .common.schedule import lr_multiplier_1x as lr_multiplier
from .common.train import train

train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
