"""The predictor against detectron2's, alone and in batches."""

from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.structures import Instances
from pycocotools import mask as rle
from small_models import SmallModel, write_model

import panet
from panet import load_config
from panet.data.shapes import draw_image
from panet.prediction import Predictor, UnreadableImageError, prediction_config
from panet.prepare import prepare
from panet.utils.errors import UserError

CLASSES = ("disk", "square", "triangle", "star")


def picture(index: int, height: int, width: int) -> Any:
    return cv2.resize(draw_image(7, index)[0], (width, height))


# Of various sizes, some of which resizing and padding make equal.
IMAGES = [
    picture(index, height, width)
    for index, (height, width) in enumerate(
        [(96, 96), (100, 140), (192, 192), (96, 134), (50, 70), (200, 90), (97, 140)]
    )
]


@pytest.fixture
def small(tiny_cfg: CfgNode, tmp_path: Path) -> SmallModel:
    return write_model(tiny_cfg, tmp_path / "model", CLASSES)


def assert_same(ours: Instances, expected: Instances) -> None:
    assert ours.image_size == expected.image_size
    assert len(ours) == len(expected) > 0
    assert torch.equal(ours.pred_classes, expected.pred_classes)
    boxes, masks = expected.pred_boxes.tensor, expected.pred_masks
    torch.testing.assert_close(ours.pred_boxes.tensor, boxes, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(ours.scores, expected.scores, rtol=1e-4, atol=1e-4)
    assert (ours.pred_masks != masks).float().mean() < 1e-3


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
@pytest.mark.parametrize("optimize", [False, True])
def test_it_finds_what_detectron2s_predictor_finds(
    small: SmallModel, image_format: str, optimize: bool
) -> None:
    overrides = ["INPUT.FORMAT", image_format, "TEST.OPTIMIZE.ENABLED", str(optimize)]
    predictor = panet.Predictor.from_name(
        str(small.config_file), str(small.weights), 0.2, overrides
    )
    cfg = prepare(load_config(str(small.config_file), overrides))
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.2
    cfg.MODEL.WEIGHTS = str(small.weights)
    theirs = DefaultPredictor(cfg)
    assert predictor.classes == list(CLASSES)
    is_optimized = not any(isinstance(m, torch.nn.BatchNorm2d) for m in predictor.model.modules())
    assert is_optimized == optimize
    for image in IMAGES[:3]:
        assert_same(predictor(image), theirs(image)["instances"])


def test_batches_find_what_single_images_give(small: SmallModel) -> None:
    predictor = Predictor.from_name(str(small.config_file), str(small.weights))
    infer = mock.Mock(side_effect=predictor.infer)
    single = [predictor(image) for image in IMAGES]
    with mock.patch.object(predictor, "infer", infer):
        batched = predictor.predict(IMAGES, batch_size=3)
    for ours, expected in zip(batched, single, strict=True):
        assert_same(ours, expected)
    sizes = [len(call.args[0]) for call in infer.call_args_list]
    assert max(sizes) == 3
    assert sum(sizes) == len(IMAGES)
    assert predictor.predict([]) == []


def test_detections_are_the_instances_in_cocos_format(small: SmallModel) -> None:
    predictor = Predictor.from_name(str(small.config_file), str(small.weights))
    instances = predictor(IMAGES[1])
    detections = predictor.detections(instances)
    assert len(detections) == len(instances) > 0
    for index, found in enumerate(detections):
        assert found["category"] == CLASSES[instances.pred_classes[index]]
        assert found["category_id"] == instances.pred_classes[index] + 1
        assert found["score"] == pytest.approx(instances.scores[index].item(), abs=1e-6)
        x, y, width, height = found["bbox"]
        box = [x, y, x + width, y + height]
        assert box == pytest.approx(instances.pred_boxes.tensor[index].tolist(), abs=2e-3)
        mask = rle.decode(found["segmentation"])
        np.testing.assert_array_equal(mask.astype(bool), instances.pred_masks[index].numpy())
    drawn = predictor.draw(IMAGES[1], instances)
    assert drawn.shape == IMAGES[1].shape
    assert (drawn != IMAGES[1]).mean() > 0.01
    np.testing.assert_array_equal(predictor.draw(IMAGES[1], instances[[]]), IMAGES[1])


def test_the_checkpoints_classes_count(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    tiny_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    small = write_model(tiny_cfg, tmp_path / "two", ("cat", "dog"))
    overrides = ["MODEL.ROI_HEADS.NUM_CLASSES", "4"]  # as a configuration for other data has it
    predictor = Predictor.from_name(str(small.config_file), str(small.weights), 0.0, overrides)
    assert predictor.categories == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert set(predictor(IMAGES[0]).pred_classes.tolist()) <= {0, 1}


def test_classes_without_names_in_the_checkpoint(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    small = write_model(tiny_cfg, tmp_path / "nameless")
    files = str(small.config_file), str(small.weights)
    unknown = ["DATASETS.TRAIN", "('unknown',)"]
    assert Predictor.from_name(*files, None, unknown).classes == ["1", "2", "3", "4"]
    known = ["DATASETS.TRAIN", "('shapes_train',)"]
    assert Predictor.from_name(*files, None, known).classes == list(CLASSES)
    other = ["DATASETS.TRAIN", "('coco_2017_train',)"]  # has 80
    assert Predictor.from_name(*files, None, other).classes == ["1", "2", "3", "4"]


def test_categories_of_coco_keep_cocos_ids(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    tiny_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    tiny_cfg.DATASETS.TRAIN = ("coco_2017_train",)
    small = write_model(tiny_cfg, tmp_path / "coco")
    predictor = Predictor.from_name(str(small.config_file), str(small.weights))
    assert predictor.categories[0] == {"id": 1, "name": "person"}
    assert predictor.categories[-1] == {"id": 90, "name": "toothbrush"}


def test_augmentation_as_the_configuration_says(small: SmallModel) -> None:
    augment = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(64, 96)"]
    predictor = Predictor.from_name(str(small.config_file), str(small.weights), 0.1, augment)
    plain = Predictor.from_name(str(small.config_file), str(small.weights), 0.1)
    ours, expected = predictor(IMAGES[1]), plain(IMAGES[1])
    assert ours.image_size == expected.image_size == (100, 140)
    assert len(ours) > 0
    assert ours.scores.tolist() != expected.scores.tolist()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((20, 20), np.uint8),
        np.zeros((20, 20, 4), np.uint8),
        np.zeros((20, 20, 3), np.float32),
        np.zeros((0, 20, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(small: SmallModel, image: Any) -> None:
    predictor = Predictor.from_name(str(small.config_file), str(small.weights))
    with pytest.raises(UserError, match="blue, green, red"):
        predictor(image)


def test_images_that_are_too_long_are_refused(small: SmallModel) -> None:
    predictor = Predictor.from_name(str(small.config_file), str(small.weights))
    with pytest.raises(UnreadableImageError, match="9000 x 2 pixels"):
        predictor(np.zeros((2, 9000, 3), np.uint8))


@pytest.mark.parametrize(
    ("name", "weights", "overrides", "message"),
    [
        ("quick/panet_R19.yaml", "a.pth", (), "no configuration file quick/panet_R19.yaml"),
        ("quick/panet_R18_shapes.yaml", "", (), "MODEL.WEIGHTS is empty"),
        ("quick/panet_R18_shapes.yaml", "gone.pth", (), "no checkpoint gone.pth"),
        ("paper/panet_R50_mst.yaml", "a.pth", (), "LOAD_PROPOSALS is True"),
        ("paper/rpn_R50.yaml", "a.pth", (), "'ProposalNetwork', which does not detect instances"),
        ("panet_R50_1x.yaml", "a.pth", ("MODEL.NOTHING", 1), "MODEL.NOTHING"),
    ],
)
def test_what_cannot_predict_is_named(
    name: str, weights: str, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Predictor.from_name(name, weights, overrides=overrides)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_a_threshold_is_a_probability(threshold: float) -> None:
    with pytest.raises(UserError, match="it must be from 0 to 1"):
        prediction_config("quick/panet_R18_shapes.yaml", "a.pth", threshold)


def test_weights_of_a_backbone_alone_are_refused(small: SmallModel, tmp_path: Path) -> None:
    state = torch.load(small.weights)["model"]
    backbone = {name: value for name, value in state.items() if name.startswith("backbone.bottom")}
    torch.save({"model": backbone}, tmp_path / "backbone.pth")
    with pytest.raises(UserError, match=r"backbone.pth has no weights.* trained with it"):
        Predictor.from_name(str(small.config_file), str(tmp_path / "backbone.pth"))
    with pytest.raises(UserError, match=r"model.pth has no weights, or weights of another shape"):
        Predictor.from_name(
            str(small.config_file), str(small.weights), overrides=["MODEL.FPN.OUT_CHANNELS", "64"]
        )


def test_windows_of_long_images_keep_their_shape(small: SmallModel) -> None:
    windows = ["TEST.AUG.ENABLED", "True", "TEST.AUG.WINDOW", "64", "TEST.AUG.SCALES", "(1.0,)"]
    predictor = Predictor.from_name(str(small.config_file), str(small.weights), 0.1, windows)
    assert predictor(np.zeros((2, 600, 3), np.uint8)).image_size == (2, 600)
    with pytest.raises(UnreadableImageError, match="9000 x 2 pixels"):
        Predictor.from_name(
            str(small.config_file), str(small.weights), 0.1, [*windows[:2], *windows[4:]]
        )(np.zeros((2, 9000, 3), np.uint8))
