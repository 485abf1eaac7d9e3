"""Every Python configuration is that in YAML of the same name."""

import copy
import functools
import sys
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from types import FunctionType
from typing import Any

import detectron2
import pytest
import torch
from detectron2.config import CfgNode, instantiate
from detectron2.data import DatasetMapper
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, ListConfig
from paths import CONFIGS
from torch import Tensor, nn

from panet import load_config
from panet.data.loader import build_train_loader
from panet.data.mapper import InstanceMapMapper
from panet.engine import LazyTrainer, PANetTrainer
from panet.lazy_config import load_lazy_config
from panet.prepare import prepare

pytestmark = pytest.mark.slow

LAZY = CONFIGS / "lazy"
NAMES = sorted(
    path.relative_to(LAZY).with_suffix("").as_posix()
    for path in LAZY.rglob("*.py")
    if LAZY / "common" not in path.parents
)
every_name = pytest.mark.parametrize("name", NAMES)


def read_yaml(name: str, device: str = "cpu") -> CfgNode:
    return prepare(load_config(str(CONFIGS / f"{name}.yaml"), ["MODEL.DEVICE", device]))


def read_python(name: str, *overrides: str, device: str = "cpu") -> DictConfig:
    return load_lazy_config(str(LAZY / f"{name}.py"), [f"train.device={device}", *overrides])


def test_those_at_the_top_have_one_each() -> None:
    assert {path.stem for path in CONFIGS.glob("panet*.yaml")} <= set(NAMES)


@every_name
def test_needs_no_model_zoo_of_detectron2s(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sources, used as they are, have no configurations within the package."""
    monkeypatch.setitem(sys.modules, "detectron2.model_zoo", None)
    monkeypatch.delattr(detectron2, "model_zoo", raising=False)
    assert read_python(name).model


def facts(value: Any) -> Any:
    """All that an object was made with, of every type that detectron2 and this project have."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.requires_grad
    if isinstance(value, Mapping):
        return {key: facts(item) for key, item in value.items()}
    if isinstance(value, list | tuple | ListConfig):
        return [facts(item) for item in value]
    if isinstance(value, functools.partial):
        return facts([value.func, value.args, value.keywords])
    if isinstance(value, FunctionType | type):
        return value.__qualname__
    if hasattr(value, "__dict__"):
        # References to whole models would go in circles.
        return type(value), {key: facts(item) for key, item in vars(value).items()}
    return value


@every_name
def test_the_same_network(name: str) -> None:
    with torch.device("meta"):
        expected = PANetTrainer.build_model(read_yaml(name, device="meta"))
        found = LazyTrainer.build_model(read_python(name, device="meta"))
    assert facts(found.state_dict()) == facts(expected.state_dict())
    assert facts(dict(found.named_parameters())) == facts(dict(expected.named_parameters()))
    for predictor in expected.modules():
        if isinstance(predictor, FastRCNNOutputLayers):
            predictor.loss_weight.setdefault("loss_cls", 1.0)  # as it reads it
    assert facts(found) == facts(expected)


SIZE = (64, 96)


def images(with_masks: bool) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(2)
    inputs = []
    for number in range(2):
        boxes = torch.tensor([[5.0, 5.0, 40.0, 50.0], [50.0, 8.0, 90.0, 60.0]]) + number
        targets = Instances(SIZE, gt_boxes=Boxes(boxes), gt_classes=torch.tensor([number, 2]))
        if with_masks:
            targets.gt_masks = BitMasks(torch.rand(2, *SIZE, generator=generator) > 0.5)
        inputs.append({"image": torch.rand(3, *SIZE, generator=generator) * 255})
        inputs[-1]["instances"] = targets
    return inputs


def outputs(model: nn.Module) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Losses in training and fields of detections."""
    torch.manual_seed(1)  # for sampling anchors and RoIs
    inputs = images(model.roi_heads.mask_on)
    with torch.no_grad(), EventStorage():
        losses = model.train()(inputs)
        found = model.eval()(inputs)
    return losses, [
        {key: getattr(v, "tensor", v) for key, v in output["instances"].get_fields().items()}
        for output in found
    ]


@pytest.mark.parametrize(
    "name",
    [
        "beyond/cascade_panet_R50_3x",
        "panet_faster_R50_2fc_1x",
        "panet_R50_1x",
        "quick/panet_R18_shapes",
    ],
)
def test_the_same_outputs_and_losses(name: str) -> None:
    cfg = read_yaml(name)
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 3
    lazy_cfg = read_python(name, "model.proposal_generator.post_nms_topk=[20,20]")
    heads = lazy_cfg.model.roi_heads
    for predictor in heads.get("box_predictors") or [heads.box_predictor]:
        predictor.update(test_score_thresh=0.0, test_topk_per_image=3)
    expected = PANetTrainer.build_model(cfg)
    for key, scale in expected.named_buffers():
        if key.endswith("conv3.norm.weight"):
            scale.fill_(0.1)  # or the features of random weights would grow with every block
    state = copy.deepcopy(expected.state_dict())
    expected_losses, expected_detections = outputs(expected)
    found = LazyTrainer.build_model(lazy_cfg)
    found.load_state_dict(state)
    losses, detections = outputs(found)
    assert all(loss.isfinite() for loss in losses.values())
    assert_equal(losses, expected_losses)
    for one, other in zip(detections, expected_detections, strict=True):
        assert len(one["scores"]) == 3
        assert_equal(one, other)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


@every_name
def test_the_same_optimizer_and_schedule(name: str) -> None:
    cfg, lazy_cfg = read_yaml(name), read_python(name)
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4))
    expected = PANetTrainer.build_optimizer(cfg, model)
    found = LazyTrainer.build_optimizer(lazy_cfg, model)
    assert type(found) is type(expected)
    for one, other in zip(found.param_groups, expected.param_groups, strict=True):
        # Only how it is computed: PyTorch takes "foreach" by itself where it is faster.
        assert facts({**one, "foreach": None}) == facts({**other, "foreach": None})
    schedule = LazyTrainer.build_lr_scheduler(lazy_cfg, found)
    expected_schedule = PANetTrainer.build_lr_scheduler(cfg, expected)
    last = cfg.SOLVER.MAX_ITER - 1
    turns = [cfg.SOLVER.WARMUP_ITERS, *cfg.SOLVER.STEPS]
    moments = {0, 1, last // 3, last} | {turn + i for turn in turns for i in (-1, 0, 1)}
    for moment in sorted(moments & set(range(last + 1))):
        schedule.last_epoch = expected_schedule.last_epoch = moment
        assert schedule.get_lr() == pytest.approx(expected_schedule.get_lr()), moment


@every_name
def test_the_same_settings_of_the_run(name: str) -> None:
    cfg, train = read_yaml(name), read_python(name).train
    expected = PANetTrainer.read_settings(cfg)
    found = LazyTrainer.read_settings(read_python(name))
    assert found.ddp.items() >= expected.ddp.items()
    assert found._replace(ddp={}) == expected._replace(ddp={})
    assert train.checkpointer.period == cfg.SOLVER.CHECKPOINT_PERIOD
    assert (train.eval_period, train.eval_pictures) == (cfg.TEST.EVAL_PERIOD, cfg.TEST.NUM_PICTURES)
    options = {key.lower(): value for key, value in cfg.TEST.OPTIMIZE.items()}
    assert train.eval_optimize == options


@every_name
def test_the_same_data(name: str) -> None:
    cfg, data = read_yaml(name), read_python(name).dataloader
    assert (data.train.dataset.names,) == cfg.DATASETS.TRAIN
    assert (data.test.dataset.names,) == cfg.DATASETS.TEST
    assert data.train.dataset.filter_empty == cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    assert data.train.total_batch_size == cfg.SOLVER.IMS_PER_BATCH
    assert data.train.aspect_ratio_grouping == cfg.DATALOADER.ASPECT_RATIO_GROUPING
    assert data.train.num_workers == data.test.num_workers == cfg.DATALOADER.NUM_WORKERS
    assert facts(instantiate(data.train.mapper)) == facts(InstanceMapMapper(cfg, True))
    found, expected = instantiate(data.test.mapper), DatasetMapper(cfg, False)
    assert (found.is_train, found.image_format) == (False, expected.image_format)
    (resize,), (expected_resize,) = found.augmentations.augs, expected.augmentations.augs
    assert set(resize.short_edge_length) == set(expected_resize.short_edge_length)
    assert resize.max_size == expected_resize.max_size


@pytest.mark.parametrize("name", ["panet_faster_R50_1x", "quick/panet_R18_shapes"])
def test_the_same_batches(name: str, tiny_dataset: str) -> None:
    cfg = read_yaml(name)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (tiny_dataset,)
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SEED = 5
    data = read_python(
        name,
        "train.seed=5",
        "dataloader.train.total_batch_size=2",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        *(f"dataloader.{split}.dataset.names={tiny_dataset}" for split in ("train", "test")),
    )
    for found, expected in (
        (LazyTrainer.build_train_loader(data), build_train_loader(cfg)),
        (LazyTrainer.build_test_loader(data), PANetTrainer.build_test_loader(cfg, tiny_dataset)),
    ):
        for batch, other in zip(islice(found, 4), islice(expected, 4), strict=True):
            assert [plain(record) for record in batch] == [plain(record) for record in other]


def plain(record: dict[str, Any]) -> dict[str, Any]:
    """A record without tensors."""
    record = dict(record, image=record["image"].tolist())
    if "instances" in record:
        fields = record.pop("instances").get_fields()
        record |= {key: getattr(v, "tensor", v).tolist() for key, v in fields.items()}
    return record


def test_results_go_to_the_same_folder(tiny_dataset: str, tmp_path: Path) -> None:
    cfg = read_yaml("quick/panet_R18_shapes")
    cfg.OUTPUT_DIR = str(tmp_path)
    names = f"dataloader.test.dataset.names={tiny_dataset}"
    lazy_cfg = read_python("quick/panet_R18_shapes", names, f"train.output_dir={tmp_path}")
    (in_background,) = LazyTrainer.build_evaluator(lazy_cfg)._evaluators
    evaluators = (in_background, PANetTrainer.build_evaluator(cfg, tiny_dataset))
    found, expected = (evaluator._evaluator for evaluator in evaluators)
    assert type(found) is type(expected)
    assert found._output_dir == expected._output_dir
