"""The embedded dataset."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from pycocotools import mask as rle
from pycocotools.coco import COCO

from panet.data import shapes


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> COCO:
    root = tmp_path_factory.mktemp("shapes")
    shapes.write_split(shapes.Split("x", 60, seed=3), root / "images", root / "x.json")
    return COCO(str(root / "x.json"))


def test_the_same_seed_draws_the_same_image() -> None:
    image, kinds, masks = shapes.draw_image(1, 2)
    again, again_kinds, again_masks = shapes.draw_image(1, 2)
    assert np.array_equal(image, again)
    assert kinds == again_kinds
    assert np.array_equal(masks, again_masks)
    assert not np.array_equal(image, shapes.draw_image(1, 3)[0])
    assert not np.array_equal(image, shapes.draw_image(2, 2)[0])


def test_visible_masks_do_not_overlap_and_are_large_enough() -> None:
    for index in range(20):
        _, kinds, masks = shapes.draw_image(4, index)
        assert len(kinds) == len(masks) >= 1
        assert np.sum(masks, axis=0).max() == 1
        assert min(mask.sum() for mask in masks) >= shapes.MIN_VISIBLE_PIXELS


def test_annotations_agree_with_the_drawing(coco: COCO) -> None:
    for index in (0, 17):
        _, kinds, masks = shapes.draw_image(3, index)
        annotations = coco.loadAnns(coco.getAnnIds(index + 1))
        assert [a["category_id"] - 1 for a in annotations] == kinds
        for annotation, mask in zip(annotations, masks, strict=True):
            assert np.array_equal(coco.annToMask(annotation), mask)
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation["bbox"]
            assert (x, x + width - 1) == (columns.min(), columns.max())
            assert (y, y + height - 1) == (rows.min(), rows.max())
            assert annotation["area"] == mask.sum() == rle.area(annotation["segmentation"])


def test_small_medium_and_large_objects_of_every_kind(coco: COCO) -> None:
    for category in coco.getCatIds():
        areas = np.array([a["area"] for a in coco.loadAnns(coco.getAnnIds(catIds=[category]))])
        assert (areas < 32**2).sum() >= 10
        assert ((areas >= 32**2) & (areas < 96**2)).sum() >= 10
        assert (areas >= 96**2).sum() >= 1


def test_an_interrupted_drawing_starts_over(tmp_path: Path) -> None:
    split = shapes.Split("x", 3, seed=1)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "left_over.jpg").touch()
    shapes.write_split(split, tmp_path / "images", tmp_path / "x.json")
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == [
        f"{i:06d}.jpg" for i in (1, 2, 3)
    ]
    image = cv2.imread(str(tmp_path / "images" / "000001.jpg"))
    assert image.shape == (shapes.IMAGE_SIZE, shapes.IMAGE_SIZE, 3)


def test_a_finished_drawing_is_kept(tmp_path: Path) -> None:
    json_file = tmp_path / "x.json"
    json_file.write_text(json.dumps({"mine": True}))
    shapes.write_split(shapes.Split("x", 3, seed=1), tmp_path / "images", json_file)
    assert json.loads(json_file.read_text()) == {"mine": True}


def test_both_splits_are_registered() -> None:
    assert {"shapes_train", "shapes_val"} <= set(DatasetCatalog.list())


def test_what_is_drawn_is_that_of_its_version() -> None:
    # Whoever changes it has to raise the version, for datasets that were drawn are kept.
    masks = [mask for index in range(20) for mask in shapes.draw_image(2, index)[2]]
    corners = [np.argwhere(mask)[[0, -1]] for mask in masks]
    assert (shapes.VERSION, len(masks), int(np.sum(corners))) == (1, 169, 88642)
