"""Cross-validation folds of "nuclei_train", for tuning without "nuclei_val"."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

NUM_FOLDS = 5


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
