"""Dataloaders and evaluator for COCO. Resumed runs keep the order of the training images."""

from detectron2.config import LazyCall as L
from detectron2.data.transforms import RandomFlip, ResizeShortestEdge
from omegaconf import OmegaConf

from panet.data.loader import build_test_loader, build_train_loader
from panet.data.mapper import InstanceMapMapper
from panet.data.records import read_records
from panet.evaluation.coco_evaluation import COCOEvaluator

dataloader = OmegaConf.create()

dataloader.train = L(build_train_loader)(
    dataset=L(read_records)(names="coco_2017_train", filter_empty=True),
    mapper=L(InstanceMapMapper)(
        is_train=True,
        augmentations=[
            L(ResizeShortestEdge)(
                short_edge_length=(400, 600, 800, 1000, 1200),
                max_size=1400,
                sample_style="choice",
            ),
            L(RandomFlip)(horizontal=True),
        ],
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format="polygon",
    ),
    total_batch_size=16,
    aspect_ratio_grouping=True,
    num_workers=4,
    seed="${train.seed}",
)

dataloader.test = L(build_test_loader)(
    dataset=L(read_records)(names="coco_2017_val", filter_empty=False),
    mapper=L(InstanceMapMapper)(
        is_train=False,
        augmentations=[L(ResizeShortestEdge)(short_edge_length=1000, max_size=1400)],
        image_format="${...train.mapper.image_format}",
    ),
    num_workers=4,
)

dataloader.evaluator = L(COCOEvaluator)(
    dataset_name="${..test.dataset.names}",
    output_dir="${train.output_dir}/inference",
)
