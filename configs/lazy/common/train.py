"""What the trainer reads beside model, data and optimizer, as in the YAML files."""

from detectron2 import model_zoo

train = model_zoo.get_config("common/train.py").train
train.channels_last = True
train.eval_period = 0  # at the end alone
