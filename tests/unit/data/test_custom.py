"""Custom datasets."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_coco
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from pycocotools import mask as rle

from panet import load_config
from panet.data import custom as own
from panet.data.availability import check_split
from panet.data.loader import build_train_loader
from panet.engine import PANetTrainer
from panet.evaluation import build_evaluator
from panet.prepare import prepare
from panet.utils.errors import UserError


@pytest.fixture(autouse=True)
def _forget_registered() -> Iterator[None]:
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


def config(tmp_path: Path, splits: dict[str, tuple[Path, Path]], *overrides: object) -> CfgNode:
    """A configuration with masks for datasets given by the paths of their file and images."""
    options: list[object] = ["MODEL.MASK_ON", True, "OUTPUT_DIR", tmp_path / "output"]
    for split, (json_file, images) in splits.items():
        options += [f"DATASETS.OWN.{split}.JSON", json_file, f"DATASETS.OWN.{split}.IMAGES", images]
    return prepare(load_config("", [str(option) for option in [*options, *overrides]]))


def test_classes_and_mask_format_come_from_the_file(tmp_path: Path) -> None:
    files = small_coco.write(tmp_path, small_coco.content())
    cfg = config(tmp_path, {"TRAIN": files, "VAL": files, "TEST": files})
    assert cfg.DATASETS.TRAIN == ("own_train",)
    assert cfg.DATASETS.TEST == ("own_val", "own_test")
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == cfg.MODEL.RETINANET.NUM_CLASSES == 3
    assert cfg.INPUT.MASK_FORMAT == "polygon"
    assert MetadataCatalog.get("own_val").thing_classes == ["cat", "dog", "owl"]
    check_split(cfg, "TRAIN")
    check_split(cfg, "TEST")


def test_evaluation_alone_leaves_no_training_set(tmp_path: Path) -> None:
    cfg = config(tmp_path, {"VAL": small_coco.write(tmp_path, small_coco.content())})
    assert cfg.DATASETS.TRAIN == ()
    assert cfg.DATASETS.TEST == ("own_val",)


@pytest.mark.parametrize("kind", ["compressed", "uncompressed", "mixed"])
def test_training_reads_masks_of_every_kind(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    kinds = ("polygons", "compressed", "uncompressed") if kind == "mixed" else (kind,)
    files = small_coco.write(tmp_path, small_coco.content(kinds=kinds))
    cfg = config(
        tmp_path, {"TRAIN": files}, "SOLVER.IMS_PER_BATCH", 2, "INPUT.MASK_FORMAT", "polygon"
    )
    assert cfg.INPUT.MASK_FORMAT == "bitmask"
    assert "MASK_FORMAT is changed from polygon to bitmask" in caplog.text
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (small_coco.HEIGHT,), "none"
    cfg.DATALOADER.NUM_WORKERS = 0
    for record in next(iter(build_train_loader(cfg))):
        instances = record["instances"]
        number = record["image_id"]
        assert instances.gt_classes.tolist() == [0, 1, 2]
        for place, mask in enumerate(instances.gt_masks.tensor):
            truth = small_coco.square_mask(3 + 20 * place, 5 + number, 12 + number)
            assert np.array_equal(mask.numpy(), truth.astype(bool))


def test_a_subset_of_the_classes_keeps_the_images(tmp_path: Path) -> None:
    content = small_coco.content()
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] or a["id"] == 0]
    files = small_coco.write(tmp_path, content)
    cfg = config(tmp_path, {"TRAIN": files}, "DATASETS.OWN.CLASSES", "['owl', 'dog']")
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert MetadataCatalog.get("own_train").thing_classes == ["dog", "owl"]
    records = DatasetCatalog.get("own_train")
    assert len(records) == 4
    assert [len(record["annotations"]) for record in records] == [0, 2, 2, 2]
    assert {a["category_id"] for record in records for a in record["annotations"]} == {0, 1}
    widths = {(a["category_id"], a["bbox"][0]) for r in records for a in r["annotations"]}
    assert widths == {(0, 23), (1, 43)}


def ground_truth(record: dict[str, Any], num_classes: int) -> Instances:
    """The annotations of a record as if they had been predicted."""
    instances = Instances((record["height"], record["width"]))
    found = record["annotations"]
    boxes = torch.tensor([a["bbox"] for a in found], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = [mask_of(a["segmentation"]) for a in found]
    instances.pred_boxes = Boxes(boxes)
    instances.pred_classes = torch.tensor([a["category_id"] for a in found], dtype=torch.int64)
    instances.scores = torch.ones(len(found))
    shape = (-1, record["height"], record["width"])
    instances.pred_masks = torch.tensor(np.array(masks, bool)).reshape(shape)
    assert all(instances.pred_classes < num_classes)
    return instances


def mask_of(segmentation: Any) -> np.ndarray:
    if isinstance(segmentation, list):
        encoded = rle.frPyObjects(segmentation, small_coco.HEIGHT, small_coco.WIDTH)
        return rle.decode(rle.merge(encoded))
    return rle.decode(segmentation)


def reverse_ids(content: dict[str, Any]) -> None:
    """Give the classes other category ids, in the reverse order."""
    new = {0: 30, 7: 20, 900001: 10}
    for part, key in (("categories", "id"), ("annotations", "category_id")):
        for entry in content[part]:
            entry[key] = new[entry[key]]


@pytest.mark.parametrize("classes", [[], ["dog", "owl"]])
@pytest.mark.parametrize("other_order", [False, True])
def test_ground_truth_evaluates_to_100(
    tmp_path: Path, classes: list[str], other_order: bool
) -> None:
    kinds = ("polygons", "compressed", "uncompressed")
    train = small_coco.write(tmp_path, small_coco.content())
    content = small_coco.content(kinds=kinds)
    if other_order:
        reverse_ids(content)
    splits = {"TRAIN": train, "VAL": small_coco.write(tmp_path, content, "val")}
    cfg = config(tmp_path, splits, "DATASETS.OWN.CLASSES", classes, "DATALOADER.NUM_WORKERS", 0)
    names = classes or ["cat", "dog", "owl"]
    PANetTrainer.build_test_loader(cfg, "own_val")
    evaluator = build_evaluator(cfg, "own_val")
    evaluator.reset()
    for record in DatasetCatalog.get("own_val"):
        evaluator.process([record], [{"instances": ground_truth(record, len(names))}])
    results = evaluator.evaluate()
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == pytest.approx(100)
        assert [results[task][f"AP-{name}"] for name in names] == pytest.approx([100] * len(names))
    written = json.loads((tmp_path / "output/inference/coco_instances_results.json").read_text())
    if not other_order:
        own_ids = {number for number, name in small_coco.CATEGORIES.items() if name in names}
        assert {prediction["category_id"] for prediction in written} == own_ids


@pytest.mark.parametrize("other_order", [False, True])
@pytest.mark.parametrize("named_images", [False, True])
def test_each_class_is_measured_under_its_name(
    tmp_path: Path, other_order: bool, named_images: bool
) -> None:
    train = small_coco.write(tmp_path, small_coco.content())
    content = small_coco.content()
    if other_order:
        reverse_ids(content)
    if named_images:
        for part, key in (("images", "id"), ("annotations", "image_id")):
            for entry in content[part]:
                entry[key] = f"image-{entry[key]}"
    splits = {"TRAIN": train, "VAL": small_coco.write(tmp_path, content, "val")}
    cfg = config(tmp_path, splits, "DATALOADER.NUM_WORKERS", 0)
    PANetTrainer.build_test_loader(cfg, "own_val")
    evaluator = build_evaluator(cfg, "own_val")
    evaluator.reset()
    for record in DatasetCatalog.get("own_val"):
        instances = ground_truth(record, 3)
        instances.pred_classes = torch.tensor([1, 0, 2])
        evaluator.process([record], [{"instances": instances}])
    results = evaluator.evaluate()
    for task in ("bbox", "segm"):
        assert results[task]["AP-owl"] == pytest.approx(100)
        assert results[task]["AP-cat"] == results[task]["AP-dog"] == 0


def test_boxes_alone_need_a_model_without_masks(tmp_path: Path) -> None:
    files = small_coco.write(tmp_path, small_coco.content(kinds=("polygons", "none", "polygons")))
    with pytest.raises(
        UserError, match=r"4 annotations without a segmentation, e.g. the one with id 1;"
    ):
        config(tmp_path, {"TRAIN": files})
    config(tmp_path, {"TRAIN": files}, "MODEL.MASK_ON", False)
    assert len(DatasetCatalog.get("own_train")) == 4


def test_stated_numbers_of_classes_give_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = small_coco.write(tmp_path, small_coco.content())
    cfg = config(tmp_path, {"TRAIN": files}, "MODEL.ROI_HEADS.NUM_CLASSES", 5)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
    assert "MODEL.ROI_HEADS.NUM_CLASSES is changed from 5 to 3" in caplog.text
    assert "RETINANET" not in caplog.text


def test_registering_again(tmp_path: Path) -> None:
    files = small_coco.write(tmp_path, small_coco.content())
    other = small_coco.write(tmp_path, small_coco.content(), "other")
    config(tmp_path, {"TRAIN": files})
    config(tmp_path, {"TRAIN": files}, "OUTPUT_DIR", tmp_path / "elsewhere")
    with pytest.raises(
        UserError, match="OWN.TRAIN.NAME is 'own_train', which is registered as another"
    ):
        config(tmp_path, {"TRAIN": other})
    with pytest.raises(UserError, match="is registered as another dataset"):
        config(tmp_path, {"TRAIN": files}, "DATASETS.OWN.CLASSES", "['cat']")
    with pytest.raises(UserError, match="'shapes_train', which is registered as another dataset"):
        config(tmp_path, {"TRAIN": files}, "DATASETS.OWN.TRAIN.NAME", "shapes_train")
    config(tmp_path, {"TRAIN": other}, "DATASETS.OWN.TRAIN.NAME", "other_train")
    assert "other/night/0.png" in DatasetCatalog.get("other_train")[0]["file_name"]


def test_a_missing_file_stops_training_but_not_the_configuration(tmp_path: Path) -> None:
    files = small_coco.write(tmp_path, small_coco.content())
    gone = (tmp_path / "gone.json", files[1])
    cfg = config(tmp_path, {"TRAIN": gone}, "MODEL.ROI_HEADS.NUM_CLASSES", 3)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
    with pytest.raises(UserError, match="'own_train' has no file of annotations at .*gone.json"):
        check_split(cfg, "TRAIN")
    files[0].rename(gone[0])
    check_split(config(tmp_path, {"TRAIN": gone}), "TRAIN")


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    json_file, images = small_coco.write(tmp_path, small_coco.content())
    for options, message in (
        (("DATASETS.OWN.TRAIN.JSON", json_file), "OWN.TRAIN.IMAGES is empty"),
        (("DATASETS.OWN.VAL.IMAGES", images), "OWN.VAL.JSON is empty"),
        (("DATASETS.OWN.CLASSES", "['cat']"), "OWN.CLASSES is set, but no dataset"),
    ):
        with pytest.raises(UserError, match=message):
            config(tmp_path, {}, *options)
    files = (json_file, images)
    with pytest.raises(
        UserError, match=r"names 'wol', which is not a class of .*closest names are 'owl'"
    ):
        config(tmp_path, {"TRAIN": files}, "DATASETS.OWN.CLASSES", "['wol']")
    broken = tmp_path / "broken.json"
    broken.write_text('{"images": [')
    with pytest.raises(UserError, match="broken.json is not valid JSON"):
        config(tmp_path, {"TRAIN": (broken, images)})
    more = small_coco.content()
    more["categories"][0]["name"] = "newt"
    with pytest.raises(UserError, match="val.json has the class 'newt', which .*train.json lacks"):
        config(tmp_path, {"TRAIN": files, "VAL": small_coco.write(tmp_path, more, "val")})


def test_errors_stop_training_with_the_first_ten(tmp_path: Path) -> None:
    good = small_coco.write(tmp_path, small_coco.content())
    bad = small_coco.content()
    for annotation in bad["annotations"]:
        annotation["category_id"] = 5
    splits = {"TRAIN": good, "VAL": small_coco.write(tmp_path, bad, "val")}
    cfg = config(tmp_path, splits)
    with pytest.raises(UserError) as raised:
        build_train_loader(cfg)
    message = str(raised.value)
    assert message.startswith("The dataset has 12 errors")
    assert (
        "annotation 9 has category_id 5, which is not the id of a category; and 2 more." in message
    )
    assert "annotation 10" not in message


def test_the_check_is_made_again_after_the_file_is_mended(tmp_path: Path) -> None:
    content = small_coco.content()
    content["images"][0]["file_name"] = "gone.png"
    json_file, images = small_coco.write(tmp_path, content)
    (images / "gone.png").unlink()
    config(tmp_path, {"TRAIN": (json_file, images)})
    with pytest.raises(UserError, match="gone.png: image 0 is missing"):
        DatasetCatalog.get("own_train")
    small_coco.write(tmp_path, small_coco.content())
    assert len(DatasetCatalog.get("own_train")) == 4


def test_test_sets_may_lack_annotations(tmp_path: Path) -> None:
    content = small_coco.content()
    del content["annotations"]
    splits = {"TEST": small_coco.write(tmp_path, content)}
    cfg = config(tmp_path, splits, "DATALOADER.NUM_WORKERS", 0)
    PANetTrainer.build_test_loader(cfg, "own_test")
    evaluator = build_evaluator(cfg, "own_test")
    evaluator.reset()
    for record in DatasetCatalog.get("own_test"):
        evaluator.process([record], [{"instances": ground_truth(record, 3)}])
    assert not evaluator.evaluate()


def test_a_saved_configuration_names_the_same_data(tmp_path: Path) -> None:
    files = small_coco.write(tmp_path, small_coco.content(kinds=("compressed",)))
    cfg = config(tmp_path, {"TRAIN": files, "VAL": files})
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    again = prepare(load_config(str(path)))
    assert again.DATASETS == cfg.DATASETS
    assert again.INPUT == cfg.INPUT
    assert again.MODEL.ROI_HEADS == cfg.MODEL.ROI_HEADS
    assert own.custom_datasets(cfg)[1].json_file == files[0]
