"""The nuclei of the 2018 Data Science Bowl, in COCO format."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

NUM_FOLDS = 5
"""Folds of the training split, to choose a recipe without "nuclei_val"."""


def register_nuclei(root: Path) -> None:
    """Register "nuclei_train" and "nuclei_val" of ``projects/nuclei/prepare_nuclei.py``.

    Args:
        root: has train.json and val.json, and their images in the folders train and val.
    """
    for split in ("train", "val"):
        register_coco_instances(
            f"nuclei_{split}",
            {"thing_classes": ["nucleus"]},
            str(root / f"{split}.json"),
            str(root / split),
        )


def register_nuclei_folds() -> None:
    """Register the folds "nuclei_fold_1" to "nuclei_fold_5" and their complements.

    The complements are "nuclei_but_fold_1" to "nuclei_but_fold_5".
    """
    train = MetadataCatalog.get("nuclei_train")
    for fold in range(1, NUM_FOLDS + 1):
        for name, chosen in ((f"nuclei_fold_{fold}", True), (f"nuclei_but_fold_{fold}", False)):
            DatasetCatalog.register(name, _reader(fold, chosen))
            MetadataCatalog.get(name).set(
                image_root=train.image_root,
                evaluator_type="coco",
                thing_classes=train.thing_classes,
            )


def choose_fold(file_name: str) -> int:
    """Choose the fold of an image, from 1 to :data:`NUM_FOLDS`, from its file name alone.

    Bytes 9 to 16 of the name's SHA-256 are used; the first 8 of its id's may determine the split.
    """
    digest = hashlib.sha256(file_name.encode()).digest()
    return int.from_bytes(digest[8:16], "big") % NUM_FOLDS + 1


def _reader(fold: int, chosen: bool) -> Callable[[], list[dict[str, Any]]]:
    def read() -> list[dict[str, Any]]:
        records = DatasetCatalog.get("nuclei_train")
        return [r for r in records if (choose_fold(Path(r["file_name"]).name) == fold) == chosen]

    return read
