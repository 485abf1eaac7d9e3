"""Proposals read from files reach the detector, and wrong files are named."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode

from panet.data.loader import build_train_loader
from panet.data.proposals import load_proposals
from panet.engine import PANetTrainer
from panet.utils.errors import UserError

RECORDS = [{"image_id": 3}, {"image_id": "b"}]


def content() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 90, (2, 5, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 90, (2, 5, 2))], axis=2)
    return {
        "ids": ["b", "unused", 3],
        "boxes": [*boxes.astype(np.float32), np.zeros((0, 4), np.float32)],
        "objectness_logits": [*rng.normal(size=(2, 5)).astype(np.float32), np.zeros(0, np.float32)],
        "bbox_mode": BoxMode.XYXY_ABS,
    }


def loaded(folder: Path, **changes: Any) -> list[dict[str, Any]]:
    file = folder / "proposals.pkl"
    file.write_bytes(pickle.dumps({**content(), **changes}))
    return load_proposals([dict(record) for record in RECORDS], str(file))


def test_every_image_gets_its_own_sorted(tmp_path: Path) -> None:
    first, second = loaded(tmp_path)
    assert first["proposal_boxes"].shape == (0, 4)
    order = sorted(range(5), key=lambda i: -content()["objectness_logits"][0][i])
    np.testing.assert_array_equal(second["proposal_boxes"], content()["boxes"][0][order])
    logits = content()["objectness_logits"][0]
    np.testing.assert_array_equal(second["proposal_objectness_logits"], logits[order])


def test_detectrons_names_and_other_box_modes(tmp_path: Path) -> None:
    old = content()
    old = {"indexes": old["ids"], "boxes": old["boxes"], "scores": old["objectness_logits"]}
    file = tmp_path / "old.pkl"
    file.write_bytes(pickle.dumps(old, protocol=2))
    records = load_proposals([dict(record) for record in RECORDS], str(file))
    np.testing.assert_array_equal(
        records[1]["proposal_boxes"], loaded(tmp_path)[1]["proposal_boxes"]
    )
    assert records[0]["proposal_bbox_mode"] == BoxMode.XYXY_ABS
    assert loaded(tmp_path, bbox_mode=1)[0]["proposal_bbox_mode"] == BoxMode.XYWH_ABS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": ["b", "unused", 4]}, "no proposals for 1 of the 2 images.*e.g. 3"),
        ({"boxes": content()["boxes"][:2]}, "3 ids, 2 boxes and 3 objectness_logits"),
        ({"boxes": [np.zeros((4, 4))] * 3}, r"shape \(4, 4\) for image 3, and 0 objectness_logits"),
        ({"boxes": np.load}, "names numpy.*load"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"proposals.pkl .*{message}"):
        loaded(tmp_path, **changes)


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.pkl"
    file.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(UserError, match=r"other.pkl is not a proposal file.*'ids'"):
        load_proposals([], str(file))


@pytest.fixture
def reading_cfg(tiny_cfg: CfgNode, tiny_dataset: str, tmp_path: Path) -> CfgNode:
    """A detector without an RPN, and a file of its proposals."""
    rng = np.random.default_rng(1)
    ids = [record["image_id"] for record in DatasetCatalog.get(tiny_dataset)]
    corners = rng.uniform(0, 200, (len(ids), 40, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 50, corners.shape)], axis=2)
    logits = rng.normal(size=(len(ids), 40))
    proposals = {"ids": ids, "boxes": list(boxes), "objectness_logits": list(logits)}
    file = tmp_path / "proposals.pkl"
    file.write_bytes(pickle.dumps(proposals))
    tiny_cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    tiny_cfg.MODEL.LOAD_PROPOSALS = True
    tiny_cfg.DATASETS.PROPOSAL_FILES_TRAIN = tiny_cfg.DATASETS.PROPOSAL_FILES_TEST = (str(file),)
    tiny_cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN = 30
    tiny_cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST = 20
    tiny_cfg.INPUT.RANDOM_FLIP = "none"
    tiny_cfg.SOLVER.MAX_ITER = 2
    return tiny_cfg


LOADERS: dict[str, Callable[[CfgNode], Any]] = {
    "TRAIN": build_train_loader,
    "TEST": lambda cfg: PANetTrainer.build_test_loader(cfg, cfg.DATASETS.TEST[0]),
}


@pytest.mark.parametrize(("split", "top"), [("TRAIN", 30), ("TEST", 20)])
def test_detectors_get_the_best_at_the_scale_of_their_images(
    reading_cfg: CfgNode, split: str, top: int
) -> None:
    file = Path(reading_cfg.DATASETS.PROPOSAL_FILES_TRAIN[0])
    proposals = pickle.loads(file.read_bytes())
    for record in next(iter(LOADERS[split](reading_cfg))):
        index = proposals["ids"].index(record["image_id"])
        best = np.argsort(-proposals["objectness_logits"][index])[:top]
        expected = proposals["boxes"][index][best].clip(max=256) * 96 / 256
        found = record["proposals"]
        torch.testing.assert_close(
            found.proposal_boxes.tensor, torch.as_tensor(expected, dtype=torch.float32)
        )
        assert found.objectness_logits.diff().max() <= 0


def test_trains_and_evaluates(reading_cfg: CfgNode) -> None:
    trainer = PANetTrainer(reading_cfg)
    assert trainer.model.proposal_generator is None
    assert {"bbox", "segm"} <= set(trainer.train())


@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
def test_wrong_keys_are_named(reading_cfg: CfgNode, split: str) -> None:
    reading_cfg.DATASETS[f"PROPOSAL_FILES_{split}"] = ()
    with pytest.raises(UserError, match=f"PROPOSAL_FILES_{split} names 0 files for the 1 data"):
        LOADERS[split](reading_cfg)
    reading_cfg.MODEL.LOAD_PROPOSALS = False
    with pytest.raises(UserError, match="MODEL.LOAD_PROPOSALS must be True"):
        LOADERS[split](reading_cfg)


@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
def test_files_never_run_code(reading_cfg: CfgNode, tmp_path: Path, split: str) -> None:
    file = tmp_path / "stranger.pkl"
    file.write_bytes(pickle.dumps(np.load))
    reading_cfg.DATASETS[f"PROPOSAL_FILES_{split}"] = (str(file),)
    with pytest.raises(UserError, match=r"stranger.pkl .*names numpy.*load"):
        LOADERS[split](reading_cfg)
