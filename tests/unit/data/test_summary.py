"""Statistics and samples of a dataset."""

from pathlib import Path

import numpy as np
import pytest
import small_coco
from detectron2.data import Metadata
from detectron2.utils.visualizer import Visualizer

from panet.data.json_checks import check_categories, check_json
from panet.data.summary import ids_with_errors, sample_records, summarize_dataset

KINDS = ("polygons", "compressed", "uncompressed")


def test_counts_and_sizes() -> None:
    content = small_coco.content(kinds=KINDS)
    content["images"].append({"id": 9, "file_name": "9.png", "width": 64, "height": 48})
    # Boxes twice as wide as their masks, the first one large, and a crowd, which has no size.
    for annotation in content["annotations"]:
        annotation["bbox"][2] *= 2
    content["annotations"][0]["bbox"] = [0, 0, 96, 96.5]
    content["annotations"][11]["iscrowd"] = 1
    summary = summarize_dataset(content, bad=())
    assert (summary.images, summary.empty_images, summary.crowds) == (5, 1, 1)
    assert list(summary.classes.items()) == [("cat", 4), ("dog", 4), ("owl", 4)]
    assert summary.boxes[:3] == (10, 0, 1)
    assert summary.masks[:3] == (11, 0, 0)
    sides = [side for side in (12, 13, 14, 15) for _ in range(3)][:-1]
    shares = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
    assert summary.masks.quantiles == pytest.approx(np.quantile(sides, shares))


def test_what_has_errors_is_left_out(tmp_path: Path) -> None:
    content = small_coco.content()
    content["annotations"][0]["bbox"] = None
    content["annotations"][1]["category_id"] = 5
    bad = ids_with_errors(check_json(content, "own.json"))
    assert bad == {"annotation 0", "annotation 1"}
    assert summarize_dataset(content, bad).classes == {"cat": 3, "dog": 3, "owl": 4}
    records = sample_records(content, tmp_path, 9, {*bad, "image 2"})
    assert [record["image_id"] for record in records] == [0, 1, 3]
    assert [len(record["annotations"]) for record in records] == [1, 3, 3]


def test_samples_are_spread_and_drawn(tmp_path: Path) -> None:
    content = small_coco.content(images=9, kinds=KINDS)
    records = sample_records(content, tmp_path, 3, bad=())
    assert [record["image_id"] for record in records] == [0, 4, 8]
    assert records[1]["file_name"] == str(tmp_path / "night" / "4.png")
    assert [a["category_id"] for a in records[1]["annotations"]] == [0, 1, 2]
    blank = np.zeros((small_coco.HEIGHT, small_coco.WIDTH, 3), np.uint8)
    drawing = Visualizer(blank, Metadata(thing_classes=["cat", "dog", "owl"]))
    picture = drawing.draw_dataset_dict(records[0]).get_image()
    for place in range(3):
        x = 3 + 20 * place
        assert picture[5 : 5 + 12, x : x + 12].any()


def test_nothing_that_json_can_hold_breaks_it(tmp_path: Path) -> None:
    for content in small_coco.damaged(small_coco.content(images=1, kinds=KINDS)):
        defects = check_json(content, "own.json")
        if not check_categories(content, "own.json"):
            summarize_dataset(content, ids_with_errors(defects))
            sample_records(content, tmp_path, 3, ids_with_errors(defects))
