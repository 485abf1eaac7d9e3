"""Reading predictions and their ground truth."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import small_coco
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from small_runs import ground_truth, predict, registered, write_predictions, write_run

from panet import load_config
from panet.prepare import prepare
from panet.reporting import read_run
from panet.reporting.accuracy import measure
from panet.reporting.confusion import compare
from panet.reporting.detections import read_detections
from panet.reporting.examples import draw_examples
from panet.utils.errors import UserError


@pytest.fixture
def text_ids(tiny_cfg: CfgNode, tmp_path: Path) -> Iterator[str]:
    """The same dataset with text for the images' numbers and objects that count from 0 on."""
    content = ground_truth(tiny_cfg)
    for image in content["images"]:
        image["id"] = f"image {image['id']}"
    for annotation in content["annotations"]:
        annotation["image_id"] = f"image {annotation['image_id']}"
        annotation["id"] -= 1
    root = MetadataCatalog.get(tiny_cfg.DATASETS.TEST[0]).image_root
    with registered("text_ids", content, tmp_path, root) as name:
        yield name


def test_how_images_and_objects_are_numbered_makes_no_difference(
    tiny_cfg: CfgNode, text_ids: str
) -> None:
    folder = write_run(tiny_cfg)
    numbered = read_detections(folder, tiny_cfg)
    tiny_cfg.DATASETS.TEST = ("shapes_val", text_ids)
    write_predictions(folder, predict(ground_truth(tiny_cfg)))
    named = read_detections(folder, tiny_cfg)
    assert measure(named, "segm").metrics == measure(numbered, "segm").metrics
    matrices = [compare(detections, 0.5, 0.5).counts.tolist() for detections in (named, numbered)]
    assert matrices[0] == matrices[1]
    for image in named.content["images"]:
        assert Path(image["file_name"]).is_file()


def test_what_is_missing_is_named(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    folder = write_run(tiny_cfg)
    cfg = tiny_cfg.clone()
    cfg.DATASETS.TEST = ()
    with pytest.raises(UserError, match=r"DATASETS\.TEST is empty"):
        read_detections(folder, cfg)
    cfg.DATASETS.TEST = ("shapes_vla",)
    with pytest.raises(UserError, match="'shapes_vla' is not registered"):
        read_detections(folder, cfg)
    predictions = predict(ground_truth(tiny_cfg))
    predictions[3]["image_id"] = 77
    write_predictions(folder, predictions)
    with pytest.raises(
        UserError, match="has the image 77, which is not in the dataset tiny_shapes"
    ):
        read_detections(folder, tiny_cfg)
    predictions_file = folder / "inference" / "coco_instances_results.json"
    predictions_file.write_text("[{")
    with pytest.raises(UserError, match=r"coco_instances_results\.json is not JSON"):
        read_detections(folder, tiny_cfg)
    predictions_file.unlink()
    with pytest.raises(UserError, match=r"has no inference/coco_instances_results\.json"):
        read_detections(folder, tiny_cfg)


def test_test_sets_without_annotations_are_named(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    content = ground_truth(tiny_cfg)
    del content["annotations"]
    root = MetadataCatalog.get(tiny_cfg.DATASETS.TEST[0]).image_root
    folder = write_run(tiny_cfg)
    tiny_cfg.DATASETS.TEST = ("blind",)
    with (
        registered("blind", content, tmp_path, root),
        pytest.raises(UserError, match="blind has no annotations"),
    ):
        read_detections(folder, tiny_cfg)


@pytest.fixture
def _forget_own() -> Iterator[None]:
    yield
    DatasetCatalog.remove("own_val")
    MetadataCatalog.remove("own_val")


@pytest.mark.usefixtures("_forget_own")
def test_data_of_ones_own_some_classes_and_every_kind_of_mask(tmp_path: Path) -> None:
    content = small_coco.content(kinds=("polygons", "compressed", "uncompressed"))
    json_file, images = small_coco.write(tmp_path, content)
    own = {"JSON": json_file, "IMAGES": images}
    options = [str(x) for key, path in own.items() for x in (f"DATASETS.OWN.VAL.{key}", path)]
    folder = tmp_path / "run"
    (folder / "inference").mkdir(parents=True)
    cfg = prepare(load_config("", [*options, "DATASETS.OWN.CLASSES", "['owl', 'cat']"]))
    (folder / "config.yaml").write_text(cfg.dump())
    wanted = [item for item in content["annotations"] if item["category_id"] != 7]
    encoded = [
        {
            **{key: item[key] for key in ("image_id", "category_id", "bbox")},
            "score": 0.9,
            "segmentation": small_coco.segmentation("compressed", *item["bbox"][:3]),
        }
        for item in wanted
    ]
    encoded[0]["category_id"] = 900001
    write_predictions(folder, encoded)
    run = read_run(folder)
    detections = read_detections(folder, run.cfg)
    assert detections.categories == {0: "cat", 900001: "owl"}
    confusion = compare(detections, 0.5, 0.5)
    assert confusion.counts.tolist() == [[3, 1, 0], [0, 4, 0], [0, 0, 0]]
    assert measure(detections, "segm").class_ap[0] == pytest.approx(75, abs=1)
    (example,) = draw_examples(confusion.false_negatives, detections, 0.5)
    assert example.caption == "cat of 144 pixels, predicted as owl, score 0.90 (0.png)"
