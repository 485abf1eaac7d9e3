"""Training data from instance maps."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BitMasks
from PIL import Image
from small_datasets import VISTAS_LABELS, write_vistas

from panet.data.mapillary import load_vistas
from panet.data.mapper import InstanceMapMapper
from panet.utils.errors import UserError


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    write_vistas(tmp_path)
    return load_vistas("mapillary_vistas_train", tmp_path)[1]


def mapper(*augmentations: Any, **options: Any) -> InstanceMapMapper:
    return InstanceMapMapper(
        True,
        augmentations=augmentations,
        image_format="BGR",
        **{"use_instance_mask": True, **options},
    )


def masks_in_file(record: dict[str, Any]) -> list[tuple[int, np.ndarray]]:
    """The class and the mask of each object, straight from the format's description."""
    values = np.array(Image.open(record["instance_file_name"])).astype(int)
    things = [label for label, (_, _, is_thing, _) in enumerate(VISTAS_LABELS) if is_thing]
    return [
        (things.index(value // 256), values == value)
        for value in np.unique(values)
        if value // 256 in things
    ]


def test_masks_boxes_and_classes_without_augmentation(record: dict[str, Any]) -> None:
    data = mapper()(record)
    instances = data["instances"]
    expected = masks_in_file(record)
    assert len(expected) >= 3
    assert instances.gt_classes.tolist() == [kind for kind, _ in expected]
    assert isinstance(instances.gt_masks, BitMasks)
    assert np.array_equal(instances.gt_masks.tensor, [mask for _, mask in expected])
    for box, (_, mask) in zip(instances.gt_boxes.tensor.tolist(), expected):
        y, x = np.nonzero(mask)
        assert box == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    assert np.array_equal(data["image"], cv2.imread(record["file_name"]).transpose(2, 0, 1))
    assert "annotations" not in data


def test_masks_follow_the_image(record: dict[str, Any]) -> None:
    data = mapper(T.Resize((200, 130)), T.RandomFlip(1.0))(record)
    resized = [
        (kind, np.array(Image.fromarray(mask).resize((130, 200), Image.Resampling.NEAREST)))
        for kind, mask in masks_in_file(record)
    ]
    assert data["image"].shape == (3, 200, 130)
    assert np.array_equal(data["instances"].gt_masks.tensor, [mask[:, ::-1] for _, mask in resized])


def test_objects_outside_of_the_image_are_gone(record: dict[str, Any]) -> None:
    kind, mask = masks_in_file(record)[0]
    y, x = np.argwhere(mask)[0].tolist()
    instances = mapper(T.CropTransform(x, y, 1, 1))(record)["instances"]
    assert instances.gt_classes.tolist() == [kind]
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 1, 1]]


def test_what_is_added_around_the_image_is_no_object(record: dict[str, Any]) -> None:
    height, width = record["height"], record["width"]
    padded = mapper(T.PadTransform(8, 8, 8, 8, width, height, seg_pad_value=255))(record)
    turned = mapper(T.RotationTransform(height, width, 90))(record)
    plain = mapper()(record)["instances"]
    assert padded["instances"].gt_masks.tensor.sum() == plain.gt_masks.tensor.sum()
    assert padded["instances"].gt_classes.tolist() == plain.gt_classes.tolist()
    assert turned["instances"].gt_masks.tensor.sum() <= plain.gt_masks.tensor.sum()


def test_images_without_objects(record: dict[str, Any]) -> None:
    empty = np.full((record["height"], record["width"]), 3 * 256, np.uint16)
    cv2.imwrite(record["instance_file_name"], empty)
    instances = mapper()(record)["instances"]
    assert len(instances) == 0
    assert instances.gt_masks.tensor.shape == (0, record["height"], record["width"])


def test_boxes_alone(record: dict[str, Any]) -> None:
    instances = mapper(use_instance_mask=False)(record)["instances"]
    assert len(instances) == len(masks_in_file(record))
    assert not instances.has("gt_masks")


def test_other_records_are_read_as_ever(tiny_cfg: CfgNode, tiny_dataset: str) -> None:
    for record in DatasetCatalog.get(tiny_dataset)[:3]:
        tiny_cfg.INPUT.RANDOM_FLIP = "none"
        ours, stock = InstanceMapMapper(tiny_cfg)(record), DatasetMapper(tiny_cfg)(record)
        assert torch.equal(ours["image"], stock["image"])
        assert torch.equal(ours["instances"].gt_masks.tensor, stock["instances"].gt_masks.tensor)


def test_wrong_images_are_named(record: dict[str, Any]) -> None:
    Path(record["file_name"]).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"image .*vistas_training_1.jpg cannot be read"):
        mapper()(record)
    Path(record["file_name"]).unlink()
    with pytest.raises(UserError, match=r"image .*vistas_training_1.jpg cannot be read"):
        mapper()(record)
    cv2.imwrite(record["file_name"], np.zeros((5, 6, 3), np.uint8))
    with pytest.raises(UserError, match=r"vistas_training_1.jpg, got \(6, 5\)") as error:
        mapper()(record)
    assert "\n" not in str(error.value)


def test_flips_in_both_directions(tiny_cfg: CfgNode, tiny_dataset: str) -> None:
    record = DatasetCatalog.get(tiny_dataset)[0]
    tiny_cfg.INPUT.RANDOM_FLIP = "none"
    plain = InstanceMapMapper(tiny_cfg, True)(record)
    tiny_cfg.INPUT.RANDOM_FLIP = "both"
    flipping = InstanceMapMapper(tiny_cfg, True)
    assert tiny_cfg.INPUT.RANDOM_FLIP == "both"
    np.random.seed(0)
    seen: list[tuple[int, ...]] = []
    for _ in range(80):
        found = flipping(record)
        dims = [
            d for d in ((), (1,), (2,), (1, 2)) if (plain["image"].flip(d)).equal(found["image"])
        ]
        assert len(dims) == 1
        masks = plain["instances"].gt_masks.tensor.flip(dims[0])
        assert masks.equal(found["instances"].gt_masks.tensor)
        seen += dims
    assert all(seen.count(dims) > 8 for dims in ((), (1,), (2,), (1, 2)))
    # Nothing is flipped for testing.
    test = InstanceMapMapper(tiny_cfg, False)
    assert all(test(record)["image"].equal(test(record)["image"]) for _ in range(8))
