from detectron2 import model_zoo

from .common.data.coco import dataloader
from .common.models.panet_fpn import model
from .common.train import train

optimizer = model_zoo.get_config("common/optim.py").SGD
lr_multiplier = model_zoo.get_config("common/coco_schedule.py").lr_multiplier_1x

train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
