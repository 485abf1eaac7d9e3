"""Training on datasets of all kinds, and the errors in their files."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.structures import PolygonMasks
from small_datasets import VISTAS_CLASSES, write_vistas

from panet.data.loader import build_train_loader
from panet.data.mapillary import load_vistas
from panet.data.mapped_masks import MappedMasks
from panet.data.records import read_train_records
from panet.utils.errors import UserError

POLYGON = [[2.0, 2.0, 30.0, 2.0, 30.0, 30.0]]


@pytest.fixture
def vistas(tmp_path: Path) -> Iterator[str]:
    """The name of a dataset of 4 images with instance maps."""
    name = "records_vistas"
    write_vistas(tmp_path / "vistas")
    DatasetCatalog.register(
        name, lambda: load_vistas("mapillary_vistas_train", tmp_path / "vistas")
    )
    MetadataCatalog.get(name).thing_classes = VISTAS_CLASSES
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.fixture
def polygons(tmp_path: Path, vistas: str) -> Iterator[str]:
    """The name of one with the same classes, an image with annotations and one without."""
    name = "records_polygons"
    records = [
        {
            "file_name": record["file_name"],
            "height": record["height"],
            "width": record["width"],
            "image_id": number,
            "annotations": [
                {"bbox": [2, 2, 30, 30], "bbox_mode": 0, "category_id": 1, "segmentation": POLYGON}
            ][:number],
        }
        for number, record in enumerate(DatasetCatalog.get(vistas)[:2])
    ]
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).thing_classes = VISTAS_CLASSES
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.fixture
def cfg(tiny_cfg: CfgNode, vistas: str) -> CfgNode:
    tiny_cfg.DATASETS.TRAIN = (vistas,)
    tiny_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    tiny_cfg.INPUT.MASK_FORMAT = "polygon"
    return tiny_cfg


def read(cfg: CfgNode, batches: int, **options: Any) -> list[dict[str, Any]]:
    return [item for batch in islice(build_train_loader(cfg, **options), batches) for item in batch]


def test_images_with_instance_maps_are_not_taken_for_empty(cfg: CfgNode) -> None:
    assert cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    assert [len(records) for records in read_train_records(cfg)] == [4]
    for item in read(cfg, 4):
        assert len(item["instances"]) > 0
        assert isinstance(item["instances"].gt_masks, MappedMasks)


@pytest.mark.parametrize("vistas_first", [True, False])
def test_datasets_may_be_mixed(
    cfg: CfgNode, vistas: str, polygons: str, vistas_first: bool
) -> None:
    cfg.DATASETS.TRAIN = (vistas, polygons) if vistas_first else (polygons, vistas)
    # The image without annotations is left out.
    assert sum(len(records) for records in read_train_records(cfg)) == 5
    kinds = {type(item["instances"].gt_masks) for item in read(cfg, 20)}
    assert kinds == {MappedMasks, PolygonMasks}


def test_an_own_mapper_is_used(cfg: CfgNode) -> None:
    assert all("instances" not in item for item in read(cfg, 2, mapper=DatasetMapper(cfg)))


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_the_mapper_stay_one_line(cfg: CfgNode, tmp_path: Path, workers: int) -> None:
    cfg.DATALOADER.NUM_WORKERS = workers
    for path in tmp_path.rglob("training/instances/*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="is not a PNG with one 16-bit channel") as error:
        read(cfg, 1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "sampler",
    [
        "ClassBalancedTrainingSampler",
        "RepeatFactorTrainingSampler",
        "WeightedCategoryTrainingSampler",
    ],
)
def test_maps_have_no_categories_to_sample_by(cfg: CfgNode, sampler: str) -> None:
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    with pytest.raises(UserError, match=f"{sampler}, which counts annotations.*TrainingSampler"):
        build_train_loader(cfg)


def test_no_dataset(cfg: CfgNode) -> None:
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(UserError, match="DATASETS.TRAIN is empty"):
        build_train_loader(cfg)


def test_classes_that_are_known_after_reading_are_checked(
    tiny_cfg: CfgNode, tiny_dataset: str
) -> None:
    tiny_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    with pytest.raises(UserError, match=f"{tiny_dataset!r} has 4 classes, but .* is 3"):
        build_train_loader(tiny_cfg)


def not_there() -> list[dict[str, Any]]:
    return [json.loads(Path("gone.json").read_text())]


def not_json() -> list[dict[str, Any]]:
    return [json.loads("{")]


def refused() -> list[dict[str, Any]]:
    raise AssertionError("a file\nis missing")


def needs_package() -> list[dict[str, Any]]:
    raise ModuleNotFoundError("No module named 'shapely'", name="shapely")


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (not_there, "No such file or directory: 'gone.json'"),
        (not_json, "Expecting property name"),
        (refused, "a file is missing"),
        (list, "Dataset 'records_broken' is empty"),
        (needs_package, "pip install shapely"),
    ],
)
def test_datasets_that_cannot_be_read_are_named(cfg: CfgNode, load: Any, reason: str) -> None:
    name = "records_broken"
    DatasetCatalog.register(name, load)
    cfg.DATASETS.TRAIN = (name,)
    try:
        expected = f"Dataset '{name}' .*{re.escape(reason)}"
        with pytest.raises(UserError, match=expected) as error:
            build_train_loader(cfg)
        assert "\n" not in str(error.value)
    finally:
        DatasetCatalog.remove(name)
