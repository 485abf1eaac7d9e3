"""Tests of panet write-proposals: the files contain the RPN's proposals in image coordinates."""

import json
import pickle
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import build_model
from PIL import Image

from panet.cli import write_proposals
from panet.compat.detectron2_launch import launch
from panet.data.loader import build_train_loader

# Height and width by id; all sizes are different, so that mix-ups are detected.
IMAGES = {30: (96, 160), 4: (120, 80), 17: (64, 200)}


@pytest.fixture
def oblong_dataset(tmp_path: Path) -> Iterator[str]:
    """Register a dataset of non-square images and yield its name."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for image_id, (height, width) in IMAGES.items():
        pixels = cv2.resize(rng.integers(0, 255, (8, 8, 3), np.uint8), (width, height))
        cv2.imwrite(str(tmp_path / f"{image_id}.png"), pixels)
        images.append(
            {"id": image_id, "file_name": f"{image_id}.png", "height": height, "width": width}
        )
        annotations.append(
            {"id": image_id, "image_id": image_id, "category_id": 1, "iscrowd": 0, "area": 400}
            | {"bbox": [5, 5, 20, 20], "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]]}
        )
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": i + 1, "name": str(i)} for i in range(4)]
    (tmp_path / "oblong.json").write_text(json.dumps(content))
    register(tmp_path)
    yield "oblong"
    DatasetCatalog.remove("oblong")
    MetadataCatalog.remove("oblong")


def register(folder: Path) -> None:
    register_coco_instances("oblong", {}, str(folder / "oblong.json"), str(folder))


@pytest.fixture
def rpn_cfg(tiny_cfg: CfgNode, tmp_path: Path) -> CfgNode:
    """Write a model and return its configuration."""
    tiny_cfg.INPUT.MIN_SIZE_TEST = 128
    tiny_cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    torch.save({"model": build_model(tiny_cfg).state_dict()}, tmp_path / "model.pth")
    return tiny_cfg


def arguments(cfg: CfgNode, folder: Path, *datasets: str) -> Namespace:
    config_file = folder / "config.yaml"
    config_file.write_text(cfg.dump())
    return Namespace(
        config_file=str(config_file),
        dataset=list(datasets) or None,
        output_dir=folder / "proposals",
        opts=[],
        num_gpus=1,
        dist_url="auto",
    )


def read(folder: Path, dataset: str) -> dict[str, Any]:
    content: dict[str, Any] = pickle.loads((folder / f"{dataset}.pkl").read_bytes())
    return content


@pytest.mark.parametrize("architecture", ["GeneralizedRCNN", "ProposalNetwork"])
@pytest.mark.parametrize("optimize", [False, True])
def test_writes_the_rpns_proposals_rescaled(
    rpn_cfg: CfgNode,
    oblong_dataset: str,
    tmp_path: Path,
    architecture: str,
    optimize: bool,
) -> None:
    model = build_model(rpn_cfg).eval()
    model.load_state_dict(torch.load(rpn_cfg.MODEL.WEIGHTS)["model"])
    rpn_cfg.MODEL.META_ARCHITECTURE = architecture
    rpn_cfg.TEST.OPTIMIZE.ENABLED = optimize
    write_proposals.main(arguments(rpn_cfg, tmp_path, oblong_dataset))

    content = read(tmp_path / "proposals", oblong_dataset)
    assert content["ids"] == sorted(IMAGES)
    assert content["bbox_mode"] == 0
    for image_id, boxes, logits in zip(
        content["ids"], content["boxes"], content["objectness_logits"], strict=True
    ):
        height, width = IMAGES[image_id]
        shorter = min(height, width)
        size = (round(width * 128 / shorter), round(height * 128 / shorter))
        file = cv2.imread(str(tmp_path / f"{image_id}.png"))
        seen = model.preprocess_image(
            [{"image": torch.as_tensor(pil_resize(file, size)).permute(2, 0, 1)}]
        )
        with torch.no_grad():
            (proposals,), _ = model.proposal_generator(seen, model.backbone(seen.tensor))
        scale = np.array([width / size[0], height / size[1]] * 2, np.float32)
        assert len(boxes) == rpn_cfg.MODEL.RPN.POST_NMS_TOPK_TEST
        expected = proposals.proposal_boxes.tensor.numpy() * scale
        np.testing.assert_allclose(boxes, expected, atol=1e-2)
        np.testing.assert_allclose(logits, proposals.objectness_logits, atol=1e-4)
        assert boxes.dtype == logits.dtype == np.float32


def pil_resize(image: Any, size: tuple[int, int]) -> Any:
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def test_a_detector_trains_on_the_boxes_that_were_written(
    rpn_cfg: CfgNode, oblong_dataset: str, tmp_path: Path
) -> None:
    rpn_cfg.DATASETS.TRAIN = (oblong_dataset,)
    write_proposals.main(arguments(rpn_cfg, tmp_path))
    assert {file.name for file in (tmp_path / "proposals").iterdir()} == {
        "oblong.pkl",
        "tiny_shapes.pkl",
    }
    rpn_cfg.MODEL.LOAD_PROPOSALS = True
    rpn_cfg.DATASETS.PROPOSAL_FILES_TRAIN = (str(tmp_path / "proposals" / "oblong.pkl"),)
    rpn_cfg.INPUT.RANDOM_FLIP = "none"
    rpn_cfg.SOLVER.IMS_PER_BATCH = 1
    content = read(tmp_path / "proposals", oblong_dataset)
    batches = iter(build_train_loader(rpn_cfg))
    seen = set()
    for _ in range(6):
        (record,) = next(batches)
        seen.add(record["image_id"])
        height, width = IMAGES[record["image_id"]]
        scale = np.array([record["image"].shape[2] / width, record["image"].shape[1] / height] * 2)
        np.testing.assert_allclose(
            record["proposals"].proposal_boxes.tensor,
            content["boxes"][content["ids"].index(record["image_id"])] * scale,
            atol=1e-3,
        )
    assert seen == set(IMAGES)


def in_a_process(folder: Path, args: Namespace) -> None:
    register(folder)
    write_proposals.write_all(args)


def test_two_processes_write_what_one_writes(
    rpn_cfg: CfgNode, oblong_dataset: str, tmp_path: Path
) -> None:
    args = arguments(rpn_cfg, tmp_path, oblong_dataset)
    write_proposals.main(args)
    one = read(tmp_path / "proposals", oblong_dataset)
    args.output_dir = tmp_path / "two"
    launch(in_a_process, 2, dist_url="auto", args=(tmp_path, args))
    two = read(tmp_path / "two", oblong_dataset)
    assert one["ids"] == two["ids"]
    for key in ("boxes", "objectness_logits"):
        for a, b in zip(one[key], two[key], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-2)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals", "reads proposals and makes none"),
        ("MODEL.META_ARCHITECTURE", "RetinaNet", "RetinaNet', which has no RPN"),
        ("DATASETS.TRAIN", ("nowhere",), "'nowhere' is not registered"),
        ("MODEL.WEIGHTS", "/nowhere.pth", "/nowhere.pth"),
    ],
)
def test_wrong_arguments_are_named(
    rpn_cfg: CfgNode,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    key: str,
    value: Any,
    message: str,
) -> None:
    rpn_cfg.merge_from_list([key, value])
    with pytest.raises(SystemExit, match="2"):
        write_proposals.main(arguments(rpn_cfg, tmp_path))
    assert message in capsys.readouterr().err
    assert not (tmp_path / "proposals").exists()


def test_without_datasets_it_says_so(
    rpn_cfg: CfgNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rpn_cfg.DATASETS.TRAIN = rpn_cfg.DATASETS.TEST = ()
    with pytest.raises(SystemExit, match="2"):
        write_proposals.main(arguments(rpn_cfg, tmp_path))
    assert "are empty; name a dataset with --dataset" in capsys.readouterr().err


def test_a_dataset_without_images_has_no_proposals(tmp_path: Path) -> None:
    write_proposals.write([], tmp_path / "none.pkl")
    content = read(tmp_path, "none")
    assert content == {"ids": [], "boxes": [], "objectness_logits": [], "bbox_mode": 0}
