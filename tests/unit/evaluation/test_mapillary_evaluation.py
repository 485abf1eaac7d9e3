"""Mapillary Vistas with COCO's metrics."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BitMasks, Instances
from pycocotools import mask as rle
from small_datasets import VISTAS_CLASSES, VISTAS_LABELS, write_vistas

from panet.data.mapillary import load_vistas
from panet.evaluation import build_evaluator
from panet.evaluation import mapillary_evaluation as vistas
from panet.utils.errors import UserError

NAME = "evaluated_vistas"
THINGS = [label for label, (_, _, is_thing, _) in enumerate(VISTAS_LABELS) if is_thing]


@pytest.fixture(autouse=True)
def dataset(tmp_path: Path) -> Iterator[None]:
    write_vistas(tmp_path / "vistas")
    DatasetCatalog.register(NAME, lambda: load_vistas("mapillary_vistas_val", tmp_path / "vistas"))
    metadata = MetadataCatalog.get(NAME)
    metadata.set(thing_classes=VISTAS_CLASSES, evaluator_type="mapillary_vistas")
    yield
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def objects(record: dict[str, Any]) -> list[tuple[int, np.ndarray]]:
    """The class and the mask of each object."""
    values = cv2.imread(record["instance_file_name"], cv2.IMREAD_UNCHANGED).astype(int)
    present = [value for value in np.unique(values).tolist() if value // 256 in THINGS]
    return [(THINGS.index(value // 256), values == value) for value in present]


def evaluate(cfg: CfgNode, shift: int = 0) -> dict[str, Any]:
    """Evaluate the ground truth, moved by some pixels, as predictions."""
    evaluator = build_evaluator(cfg, NAME)
    evaluator.reset()
    for record in DatasetCatalog.get(NAME):
        kinds, masks = zip(*objects(record))
        moved = BitMasks(torch.from_numpy(np.stack(masks)).roll(shift, 2))
        predictions = Instances(
            (record["height"], record["width"]),
            pred_boxes=moved.get_bounding_boxes(),
            pred_classes=torch.tensor(kinds),
            pred_masks=moved.tensor,
            scores=torch.ones(len(kinds)),
        )
        evaluator.process([record], [{"instances": predictions}])
    return evaluator.evaluate()


def test_perfect_and_imperfect_predictions(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    results = evaluate(tiny_cfg)
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == pytest.approx(100)
        assert results[task]["AP50"] == pytest.approx(100)
        assert all(results[task][f"AP-{name}"] == pytest.approx(100) for name in VISTAS_CLASSES)
    # Another folder in the same process, as when several models are evaluated.
    tiny_cfg.OUTPUT_DIR = str(tmp_path / "other")
    assert 0 < evaluate(tiny_cfg, shift=4)["segm"]["AP"] < 90


def test_ground_truth_has_every_object(tmp_path: Path) -> None:
    content = json.loads(vistas.write_ground_truth(NAME, tmp_path / "out").read_text())
    assert [category["name"] for category in content["categories"]] == VISTAS_CLASSES
    records = DatasetCatalog.get(NAME)
    assert len(content["images"]) == len(records) == 4
    for image, record in zip(content["images"], records):
        assert all(image[key] == record[key] for key in ("file_name", "height", "width"))
        found = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        expected = objects(record)
        assert [a["category_id"] for a in found] == [kind for kind, _ in expected]
        for annotation, (_, mask) in zip(found, expected):
            assert np.array_equal(rle.decode(annotation["segmentation"]), mask)
            y, x = np.nonzero(mask)
            box = [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
            assert annotation["bbox"] == box
            assert annotation["area"] == mask.sum()
    numbers = [annotation["id"] for annotation in content["annotations"]]
    assert len(set(numbers)) == len(numbers)
    assert min(numbers) == 1


def test_ground_truth_is_written_once(tmp_path: Path) -> None:
    with mock.patch.object(vistas, "_in_coco_format", wraps=vistas._in_coco_format) as written:
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(vistas.write_ground_truth, NAME, tmp_path) for _ in range(4)]
        assert len({call.result() for call in calls}) == 1
        assert written.call_count == 1
        changed = Path(DatasetCatalog.get(NAME)[0]["instance_file_name"])
        cv2.imwrite(str(changed), np.zeros((64, 96), np.uint16))
        vistas.write_ground_truth(NAME, tmp_path)
        assert written.call_count == 2


def test_wrong_maps_leave_no_ground_truth(tmp_path: Path) -> None:
    changed = Path(DatasetCatalog.get(NAME)[2]["instance_file_name"])
    before = changed.read_bytes()
    changed.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(UserError, match=f"{changed.name} is not a PNG"):
            vistas.write_ground_truth(NAME, tmp_path / "out")
    changed.write_bytes(before)
    assert vistas.write_ground_truth(NAME, tmp_path / "out").exists()
