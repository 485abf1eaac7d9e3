"""The nuclei as registered datasets, and the configurations that train on them."""

import sys
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from paths import CONFIGS, NUCLEI
from small_nuclei import HEIGHT, IDS, WIDTH, write_nuclei

from panet import load_config
from panet.data.availability import check_datasets
from panet.data.nuclei import register_nuclei
from panet.engine import PANetTrainer
from panet.prepare import prepare
from panet.utils.errors import UserError

sys.path.append(str(NUCLEI))

from stage1 import SPLITS, convert, find_sources, to_coco, write_json


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A folder as the tool writes it, with every second image in each split."""
    write_nuclei(tmp_path / "stage1_train")
    folder = tmp_path / "nuclei"
    sources = find_sources(tmp_path / "stage1_train")
    for number, split in enumerate(SPLITS):
        (folder / split).mkdir(parents=True)
        images = [convert(source, folder / split) for source in sources[number::2]]
        write_json(to_coco(split, images), folder / f"{split}.json")
    return folder


def test_the_registered_datasets_are_those_of_the_tool(prepared: Path) -> None:
    registered = Path(MetadataCatalog.get("nuclei_train").json_file)
    assert (registered.parent.name, registered.name) == ("nuclei", "train.json")
    assert MetadataCatalog.get("nuclei_val").evaluator_type == "coco"
    assert MetadataCatalog.get("nuclei_val").thing_classes == ["nucleus"]
    for split in ("train", "val"):
        DatasetCatalog.remove(f"nuclei_{split}")
        MetadataCatalog.remove(f"nuclei_{split}")
    try:
        register_nuclei(prepared)
        records = [*DatasetCatalog.get("nuclei_train"), *DatasetCatalog.get("nuclei_val")]
        assert sorted(Path(record["file_name"]).stem for record in records) == sorted(IDS)
        assert {a["category_id"] for record in records for a in record["annotations"]} == {0}
    finally:
        for split in ("train", "val"):
            DatasetCatalog.remove(f"nuclei_{split}")
            MetadataCatalog.remove(f"nuclei_{split}")
        register_nuclei(registered.parent)


def test_where_to_get_them_is_told() -> None:
    cfg = prepare(load_config(str(CONFIGS / "nuclei" / "panet_R18_nuclei.yaml")))
    with pytest.raises(UserError) as error:
        check_datasets(cfg, cfg.DATASETS.TRAIN)
    message = str(error.value)
    assert "BBBC038" in message
    assert "projects/nuclei/prepare_nuclei.py" in message
    assert "DETECTRON2_DATASETS" in message


@pytest.mark.parametrize("name", ["panet_R18_nuclei", "panet_R18_nuclei_gn", "panet_R50_nuclei"])
def test_crops_without_nuclei_train_and_testing_has_whole_images_for_its_windows(
    name: str, prepared: Path, tmp_path: Path
) -> None:
    cfg = prepare(load_config(str(CONFIGS / "nuclei" / f"{name}.yaml"), ["MODEL.DEVICE", "cpu"]))
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_BOX_HEAD.CONV_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 64
    cfg.MODEL.WEIGHTS = ""
    # The nuclei are in the upper left of each image.
    cfg.INPUT.CROP.SIZE = [24, 24]
    cfg.INPUT.MIN_SIZE_TRAIN = tuple(size // 4 for size in cfg.INPUT.MIN_SIZE_TRAIN)
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.MAX_ITER = 3
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    counts = []

    class Trainer(PANetTrainer):
        def before_train(self) -> None:
            super().before_train()
            self.model.register_forward_pre_hook(
                lambda _, inputs: counts.extend(len(image["instances"]) for image in inputs[0])
            )

    DatasetCatalog.register(
        "few_nuclei",
        lambda: load_coco_json(
            str(prepared / "train.json"),
            str(prepared / "train"),
            "few_nuclei",
        ),
    )
    try:
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("few_nuclei",), ()
        Trainer(cfg).train()
        assert min(counts) == 0
        assert max(counts) > 0
        image = next(iter(PANetTrainer.build_test_loader(cfg, "few_nuclei")))[0]["image"]
        assert image.shape == (3, HEIGHT, WIDTH)
        assert image.dtype == torch.uint8
    finally:
        DatasetCatalog.remove("few_nuclei")
        MetadataCatalog.remove("few_nuclei")
