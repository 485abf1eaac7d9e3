"""Mapillary Vistas' evaluation with COCO's metrics."""

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


class MapillaryVistasEvaluator(COCOEvaluator):
    """COCO's metrics on datasets whose records have instance maps.

    The ground truth is made from the maps once, see :func:`write_ground_truth`.
    """

    def __init__(self, dataset_name: str, output_dir: str, **kwargs: Any) -> None:
        """
        Args:
            dataset_name: registered; its records are those of :mod:`panet.data.mapillary`.
            output_dir: where to save the ground truth and the predictions.
            kwargs: others of :class:`COCOEvaluator`.

        Raises:
            UserError: if an instance map cannot be read.
        """
        json_file = write_ground_truth(dataset_name, Path(output_dir))
        # A name of its own, since metadata cannot change and another run has another folder.
        with_ground_truth = f"{dataset_name} in {json_file}"
        MetadataCatalog.get(with_ground_truth).set(
            json_file=str(json_file), thing_classes=MetadataCatalog.get(dataset_name).thing_classes
        )
        super().__init__(with_ground_truth, output_dir, **kwargs)


def write_ground_truth(dataset_name: str, folder: Path) -> Path:
    """Write a dataset with instance maps in COCO's format, unless that was done before.

    One process writes, those that come at the same time wait for it. The name of the file stands
    for the paths, sizes and dates of the maps, so that others get another file.

    Returns:
        The JSON file's path.

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
        state = Path(record["instance_file_name"]).stat()
        described = (record["instance_file_name"], state.st_size, state.st_mtime_ns)
        digest.update(repr((*described, record["label_classes"])).encode())
    return digest.hexdigest()[:12]


def _in_coco_format(records: list[dict[str, Any]], thing_classes: list[str]) -> dict[str, Any]:
    # Threads suffice: decoding and comparing pixels both let the others run. The bar is shown to
    # people who watch only.
    with ThreadPoolExecutor() as pool:
        done = pool.map(_annotations, records)
        per_image = list(tqdm(done, "ground truth", len(records), unit="image", disable=None))
    annotations = [annotation for annotations in per_image for annotation in annotations]
    return {
        "info": {"description": "Written by panet from the dataset's instance maps."},
        "images": [
            {
                "id": record["image_id"],
                "file_name": record["file_name"],
                "height": record["height"],
                "width": record["width"],
            }
            for record in records
        ],
        "annotations": [{"id": i + 1, **annotation} for i, annotation in enumerate(annotations)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(thing_classes)],
    }


def _annotations(record: dict[str, Any]) -> list[dict[str, Any]]:
    ids = read_instance_map(record).ids(num_classes=max(record["label_classes"]) + 1)
    annotations = []
    for object_id, mask in encode_objects(ids).items():
        annotations.append(
            {
                "image_id": record["image_id"],
                "category_id": object_class(object_id),
                "segmentation": {"size": mask["size"], "counts": mask["counts"].decode()},
                "area": int(rle.area(mask)),
                "bbox": rle.toBbox(mask).tolist(),
                "iscrowd": 0,
            }
        )
    return annotations
