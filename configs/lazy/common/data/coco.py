"""COCO at the scales of these configurations, read in an order that resuming keeps."""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L

from panet.data.loader import build_train_loader
from panet.data.mapper import InstanceMapMapper
from panet.data.records import read_records
from panet.evaluation.coco import COCOEvaluator

dataloader = model_zoo.get_config("common/data/coco.py").dataloader

dataloader.train._target_ = build_train_loader
dataloader.train.seed = "${train.seed}"
dataloader.train.aspect_ratio_grouping = True
dataloader.train.dataset._target_ = read_records
dataloader.train.dataset.filter_empty = True
dataloader.train.mapper._target_ = InstanceMapMapper
dataloader.train.mapper.instance_mask_format = "polygon"
dataloader.train.mapper.augmentations[0].update(
    short_edge_length=(400, 600, 800, 1000, 1200), max_size=1400
)

dataloader.test.dataset._target_ = read_records
dataloader.test.mapper._target_ = InstanceMapMapper
dataloader.test.mapper.augmentations[0].update(short_edge_length=1000, max_size=1400)

dataloader.evaluator = L(COCOEvaluator)(
    dataset_name="${..test.dataset.names}",
    output_dir="${train.output_dir}/inference",
)
