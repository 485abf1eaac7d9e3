"""Registration of the builtin datasets."""

import os
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from . import shapes
from .mapillary import register_vistas
from .nuclei import register_nuclei, register_nuclei_folds


def register_shapes(root: Path) -> None:
    """Register "shapes_train" and "shapes_val", which are drawn to ``root`` on first use."""
    folder = root / f"shapes_v{shapes.VERSION}"
    for split in shapes.SPLITS:
        name = f"shapes_{split.name}"
        image_root = folder / split.name
        json_file = folder / "annotations" / f"instances_{split.name}.json"

        def load(
            split: shapes.Split = split,
            image_root: Path = image_root,
            json_file: Path = json_file,
            name: str = name,
        ) -> list[dict[str, Any]]:
            shapes.write_split(split, image_root, json_file)
            return load_coco_json(str(json_file), str(image_root), name)

        DatasetCatalog.register(name, load)
        MetadataCatalog.get(name).set(
            json_file=str(json_file),
            image_root=str(image_root),
            evaluator_type="coco",
            thing_classes=list(shapes.CATEGORIES),
            drawn_when_used=True,
        )


# Where detectron2 looks for its own builtin datasets.
ROOT = Path(os.getenv("DETECTRON2_DATASETS", "datasets")).expanduser()

register_shapes(ROOT)
register_vistas(ROOT / "mapillary_vistas")
register_nuclei(ROOT / "nuclei")
register_nuclei_folds()
