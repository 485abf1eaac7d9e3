"""Missing datasets, classes and proposals are reported in one sentence, before training."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from small_datasets import write_vistas

from panet import load_config
from panet.data.availability import check_classes, check_datasets, check_split
from panet.data.proposals import check_proposals
from panet.engine import PANetTrainer
from panet.prepare import prepare
from panet.utils.errors import UserError


@pytest.fixture
def cfg() -> CfgNode:
    return prepare(load_config())


@pytest.mark.parametrize(
    ("name", "close"),
    [("coco_2017_trian", "'coco_2017_train'"), ("mapilary_vistas_val", "'mapillary_vistas_val'")],
)
def test_close_names_are_proposed(cfg: CfgNode, name: str, close: str) -> None:
    with pytest.raises(UserError, match=f"{name!r} is not registered.*closest names are {close}"):
        check_datasets(cfg, (name,))
    with pytest.raises(UserError, match="'xyzzy' is not registered with detectron2.$"):
        check_datasets(cfg, ("xyzzy",))


@pytest.mark.parametrize(
    ("name", "path", "source"),
    [
        ("coco_2017_train", "coco/train2017", "cocodataset.org"),
        ("lvis_v1_train", "coco/", "lvisdataset.org"),
        ("cityscapes_fine_instance_seg_val", "cityscapes/leftImg8bit/val/", "cityscapes-dataset"),
        ("mapillary_vistas_train", "mapillary_vistas", "www.mapillary.com/dataset/vistas"),
    ],
)
def test_missing_datasets_are_told_where_to_get(
    cfg: CfgNode, name: str, path: str, source: str
) -> None:
    with pytest.raises(UserError) as error:
        check_datasets(cfg, (name,))
    message = str(error.value)
    assert re.match(rf"Dataset '{name}' has no .* at .*{path};", message)
    assert source in message
    assert "DETECTRON2_DATASETS" in message
    assert "\n" not in message


@pytest.fixture
def own(tmp_path: Path) -> Iterator[str]:
    """A dataset of somebody's own, of which only the images are there."""
    register_coco_instances("own", {}, str(tmp_path / "own.json"), str(tmp_path))
    yield "own"
    DatasetCatalog.remove("own")
    MetadataCatalog.remove("own")


def test_own_datasets(cfg: CfgNode, own: str, tmp_path: Path) -> None:
    expected = r"'own' has no file of annotations at .*own.json; correct the path"
    with pytest.raises(UserError, match=expected):
        check_datasets(cfg, (own,))
    (tmp_path / "own.json").write_text("{}")
    check_datasets(cfg, (own,))


def test_shapes_are_drawn_when_used(
    cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 4
    for name in ("shapes_train", "shapes_val"):
        metadata = MetadataCatalog.get(name)
        for key in ("json_file", "image_root"):
            monkeypatch.setitem(metadata.__dict__, key, str(tmp_path / "gone" / key))
    check_datasets(cfg, ("shapes_train", "shapes_val"))
    monkeypatch.delitem(metadata.__dict__, "drawn_when_used")
    with pytest.raises(UserError, match="'shapes_val' has no .*gone"):
        check_datasets(cfg, ("shapes_val",))


def test_vistas_tells_its_classes_before_it_is_read(
    cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_vistas(tmp_path)
    metadata = MetadataCatalog.get("mapillary_vistas_val")
    monkeypatch.setitem(metadata.__dict__, "dirname", str(tmp_path))
    monkeypatch.setitem(metadata.__dict__, "image_dir", str(tmp_path / "validation" / "images"))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    with pytest.raises(UserError, match=r"'mapillary_vistas_val' has 3 classes.*is 2"):
        check_datasets(cfg, ("mapillary_vistas_val",))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    check_datasets(cfg, ("mapillary_vistas_val",))
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"has neither config.json"):
        check_datasets(cfg, ("mapillary_vistas_val",))


@pytest.mark.parametrize(
    ("architecture", "section"),
    [("GeneralizedRCNN", "ROI_HEADS"), ("PanopticFPN", "ROI_HEADS"), ("RetinaNet", "RETINANET")],
)
def test_the_model_needs_as_many_classes(
    cfg: CfgNode, architecture: str, section: str, caplog: pytest.LogCaptureFixture
) -> None:
    MetadataCatalog.get("three").thing_classes = ["a", "b", "c"]
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL[section].NUM_CLASSES = 3
    check_classes(cfg, ("three", "unknown"))
    assert not caplog.records
    cfg.MODEL[section].NUM_CLASSES = 4
    check_classes(cfg, ("three", "unknown"))
    assert f"'three' has 3 classes, but MODEL.{section}.NUM_CLASSES is 4" in caplog.text
    cfg.MODEL[section].NUM_CLASSES = 2
    expected = f"'three' has 3 classes, but MODEL.{section}.NUM_CLASSES is 2"
    with pytest.raises(UserError, match=expected):
        check_classes(cfg, ("unknown", "three"))
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    check_classes(cfg, ("three",))


def test_classes_must_be_the_same(cfg: CfgNode) -> None:
    MetadataCatalog.get("three").thing_classes = ["a", "b", "c"]
    MetadataCatalog.get("turned").thing_classes = ["c", "b", "a"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    with pytest.raises(UserError, match="'three' and 'turned' have different classes"):
        check_classes(cfg, ("three", "turned"))


def test_proposals(cfg: CfgNode, tmp_path: Path) -> None:
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("a", "b"), ()
    check_proposals(cfg, "TRAIN")
    cfg.MODEL.LOAD_PROPOSALS = True
    present, missing = str(tmp_path / "present.pkl"), str(tmp_path / "missing.pkl")
    Path(present).touch()
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = (present,)
    expected = "PROPOSAL_FILES_TRAIN names 1 files for the 2 datasets.*panet proposals"
    with pytest.raises(UserError, match=expected):
        check_proposals(cfg, "TRAIN")
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = (present, missing)
    expected = "missing.pkl for dataset 'b', which does not exist.*panet proposals"
    with pytest.raises(UserError, match=expected):
        check_proposals(cfg, "TRAIN")
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = (present, present)
    check_proposals(cfg, "TRAIN")


def test_proposals_go_with_what_reads_them(cfg: CfgNode) -> None:
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    with pytest.raises(UserError, match="so MODEL.LOAD_PROPOSALS must be True"):
        check_proposals(cfg, "TRAIN")


def test_both_splits_are_checked(tiny_cfg: CfgNode) -> None:
    check_split(tiny_cfg, "TRAIN")
    tiny_cfg.DATASETS.TEST = ("gone",)
    with pytest.raises(UserError, match="'gone' is not registered"):
        check_split(tiny_cfg, "TEST")
    tiny_cfg.MODEL.LOAD_PROPOSALS = True
    with pytest.raises(UserError, match="PROPOSAL_FILES_TRAIN names 0 files"):
        check_split(tiny_cfg, "TRAIN")


def test_the_trainer_checks_what_it_reads(tiny_cfg: CfgNode) -> None:
    tiny_cfg.DATASETS.TRAIN = tiny_cfg.DATASETS.TEST = ("gone",)
    with pytest.raises(UserError, match="'gone' is not registered"):
        PANetTrainer(tiny_cfg).train()
    with pytest.raises(UserError, match="'gone' is not registered"):
        PANetTrainer.test(tiny_cfg, torch.nn.Identity())


def test_annotations_that_cannot_be_read(tiny_cfg: CfgNode, own: str, tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(json.dumps({"images": []})[:-1])
    with pytest.raises(UserError, match="'own' cannot be read"):
        PANetTrainer.build_test_loader(tiny_cfg, own)
