"""Evaluation of Mapillary Vistas with COCO's metrics."""

import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from filelock import FileLock
from pycocotools import mask as rle
from tqdm import tqdm

from panet.data.instance_map import encode_objects, object_class, read_instance_map
from panet.utils.atomic import open_atomically

from .coco_evaluation import COCOEvaluator

logger = logging.getLogger(__name__)

_IMAGE_KEYS = ("file_name", "height", "width")


class MapillaryVistasEvaluator(COCOEvaluator):
    """COCO's metrics for datasets whose records have instance maps.

    The ground truth is converted once, see :func:`write_ground_truth`.
    """

    def __init__(self, dataset_name: str, output_dir: str, **kwargs: Any) -> None:
        """
        Args:
            dataset_name: name of a registered dataset with records of :mod:`panet.data.mapillary`.
            output_dir: directory to save the ground truth and the predictions to.
            kwargs: other arguments of :class:`COCOEvaluator`.

        Raises:
            UserError: if an instance map cannot be read.
        """
        json_file = write_ground_truth(dataset_name, Path(output_dir))
        # A separate entry, since metadata is immutable and runs have different output directories.
        with_ground_truth = f"{dataset_name} in {json_file}"
        MetadataCatalog.get(with_ground_truth).set(
            json_file=str(json_file), thing_classes=MetadataCatalog.get(dataset_name).thing_classes
        )
        super().__init__(with_ground_truth, output_dir, **kwargs)


def write_ground_truth(dataset_name: str, folder: Path) -> Path:
    """Convert a dataset with instance maps to a COCO annotation file, if not done yet.

    One process writes the file while concurrent ones wait. The file name contains a hash of the
    paths, sizes and modification times of the maps, so changed maps are converted again.

    Returns:
        Path of the JSON file.

    Raises:
        UserError: if an instance map cannot be read.
    """
    records = DatasetCatalog.get(dataset_name)
    json_file = folder / f"{dataset_name}_{_fingerprint(records)}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{json_file}.lock"):
        if not json_file.exists():
            logger.info("Writing the ground truth of %s to %s ...", dataset_name, json_file)
            content = _in_coco_format(records, MetadataCatalog.get(dataset_name).thing_classes)
            with open_atomically(json_file, "w") as file:
                json.dump(content, file)
    return json_file


def _fingerprint(records: list[dict[str, Any]]) -> str:
    digest = hashlib.sha256()
    for record in records:
        path = record["instance_file_name"]
        status = Path(path).stat()
        state = (path, status.st_size, status.st_mtime_ns, record["label_classes"])
        digest.update(repr(state).encode())
    return digest.hexdigest()[:12]


def _in_coco_format(records: list[dict[str, Any]], thing_classes: list[str]) -> dict[str, Any]:
    # Threads suffice, since decoding and comparing pixels release the GIL.
    with ThreadPoolExecutor() as pool:
        per_image = pool.map(_annotations, records)
        # disable=None shows the bar on terminals only.
        bar = tqdm(per_image, "ground truth", len(records), unit="image", disable=None)
        annotations = [annotation for annotations in bar for annotation in annotations]
    return {
        "info": {"description": "Written by panet from the dataset's instance maps."},
        "images": [
            {"id": record["image_id"], **{key: record[key] for key in _IMAGE_KEYS}}
            for record in records
        ],
        "annotations": [{"id": i, **annotation} for i, annotation in enumerate(annotations, 1)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(thing_classes)],
    }


def _annotations(record: dict[str, Any]) -> list[dict[str, Any]]:
    ids = read_instance_map(record).ids(num_classes=max(record["label_classes"]) + 1)
    return [
        {
            "image_id": record["image_id"],
            "category_id": object_class(object_id),
            "segmentation": {"size": mask["size"], "counts": mask["counts"].decode()},
            "area": int(rle.area(mask)),
            "bbox": rle.toBbox(mask).tolist(),
            "iscrowd": 0,
        }
        for object_id, mask in encode_objects(ids).items()
    ]
