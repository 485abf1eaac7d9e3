"""Pictures of every evaluation for TensorBoard."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import EventStorage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_evaluation import ground_truth_as_predictions

from panet.engine import PANetTrainer
from panet.evaluation import PictureRecorder
from panet.utils.errors import UserError


def record(
    recorder: PictureRecorder, dataset: str, indices: list[int], **changes: Any
) -> dict[str, np.ndarray]:
    """Evaluate as detectron2 does and return the pictures by their names."""
    records = DatasetCatalog.get(dataset)
    with EventStorage(7) as storage:
        recorder.reset()
        for index in indices:
            image = {key: records[index][key] for key in ("file_name", "height", "width")}
            predictions = ground_truth_as_predictions(records[index])
            recorder.process([{**image, **changes}], [{"instances": predictions}])
        assert recorder.evaluate() == {}
        return {name: np.asarray(image) for name, image, _ in storage._vis_data}


def test_the_first_images_are_drawn_whoever_predicts_for_the_others(tiny_dataset: str) -> None:
    whole = record(PictureRecorder(tiny_dataset, 3), tiny_dataset, list(range(12)))
    assert list(whole) == [f"tiny_shapes/{i:03d}" for i in range(3)]
    for picture in whole.values():
        assert picture.dtype == np.uint8
        assert picture.shape == (3, 512, 1024)
        # Both sides show the same objects in other colours.
        assert 0 < np.abs(picture[..., :512].astype(int) - picture[..., 512:]).mean() < 100
    part = record(PictureRecorder(tiny_dataset, 3), tiny_dataset, [0, 1, 5])
    assert list(part) == list(whole)[:2]


def test_the_ground_truth_may_be_missing(tiny_dataset: str) -> None:
    name = "without_annotations"
    DatasetCatalog.register(
        name,
        lambda: [
            {key: value for key, value in item.items() if key != "annotations"}
            for item in DatasetCatalog.get(tiny_dataset)
        ],
    )
    MetadataCatalog.get(name).thing_classes = MetadataCatalog.get(tiny_dataset).thing_classes
    try:
        recorder = PictureRecorder(name, 1)
        recorder.reset()
        item = DatasetCatalog.get(tiny_dataset)[0]
        with EventStorage() as storage:
            recorder.reset()
            outputs = [{"instances": ground_truth_as_predictions(item)}]
            recorder.process(DatasetCatalog.get(name)[:1], outputs)
            assert len(storage._vis_data) == 1
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_errors_are_logged_and_nothing_else(
    tiny_dataset: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "panet"):
        pictures = record(PictureRecorder("no_such_dataset", 3), tiny_dataset, [0, 1])
    assert pictures == {}
    (message,) = caplog.messages
    assert message == "Skipping the visualizations for TensorBoard:"


def test_nothing_is_drawn_outside_of_a_training_or_if_none_are_wanted(tiny_dataset: str) -> None:
    item = DatasetCatalog.get(tiny_dataset)[0]
    recorder = PictureRecorder(tiny_dataset, 3)
    recorder.reset()
    recorder.process([item], [{"instances": ground_truth_as_predictions(item)}])
    assert record(PictureRecorder(tiny_dataset, 0), tiny_dataset, [0]) == {}
    with pytest.raises(UserError, match=r"TEST\.NUM_PICTURES is -1"):
        PictureRecorder(tiny_dataset, -1)
    with pytest.raises(UserError, match=r"^train\.eval_pictures is -1"):
        PictureRecorder(tiny_dataset, -1, key="train.eval_pictures")


def test_every_evaluation_leaves_pictures_and_metrics(tiny_cfg: CfgNode) -> None:
    tiny_cfg.TEST.EVAL_PERIOD = 2
    tiny_cfg.TEST.NUM_PICTURES = 2
    tiny_cfg.TEST.OPTIMIZE.ENABLED = True
    trainer = PANetTrainer(tiny_cfg)
    trainer.train()
    lines = Path(tiny_cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()
    with_ap = {row["iteration"] for row in map(json.loads, lines) if "segm/AP" in row}
    assert with_ap == {1, 4}
    events = EventAccumulator(tiny_cfg.OUTPUT_DIR, size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["tiny_shapes/000", "tiny_shapes/001"]
    for name in events.Tags()["images"]:
        assert [image.step for image in events.Images(name)] == [1, 4]
