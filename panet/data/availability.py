"""Whether the data that a configuration names is there, and fits the model."""

import logging
import os
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from panet.utils.choices import closest
from panet.utils.errors import UserError

from . import mapillary
from .proposals import check_proposals

logger = logging.getLogger(__name__)

_PATHS = {
    "dirname": "folder",
    "image_root": "folder of images",
    "image_dir": "folder of images",
    "json_file": "file of annotations",
    "gt_dir": "folder of annotations",
    "panoptic_root": "folder of panoptic annotations",
    "panoptic_json": "file of panoptic annotations",
    "sem_seg_root": "folder of semantic annotations",
}
"""The keys of detectron2's metadata that hold paths, and what is there."""

_SOURCES = {
    "coco_": "cocodataset.org/#download",
    "keypoints_coco_": "cocodataset.org/#download",
    "lvis_": "lvisdataset.org, its images from cocodataset.org/#download",
    "cityscapes_": "www.cityscapes-dataset.com",
    "mapillary_vistas_": "www.mapillary.com/dataset/vistas",
    "nuclei_": "bbbc.broadinstitute.org/BBBC038 and write it, with tools/prepare_nuclei.py,",
    "voc_": "host.robots.ox.ac.uk/pascal/VOC",
    "ade20k_": "sceneparsing.csail.mit.edu",
}
"""Where datasets come from, by how their names begin."""

CLASS_SECTIONS = {
    "GeneralizedRCNN": "ROI_HEADS",
    "PanopticFPN": "ROI_HEADS",
    "RetinaNet": "RETINANET",
}
"""Where in MODEL a META_ARCHITECTURE has its NUM_CLASSES."""


def check_split(cfg: CfgNode, split: str) -> None:
    """Check the datasets of a split and, if the model reads proposals, the files of these.

    Args:
        cfg: keys ``DATASETS`` and ``MODEL``.
        split: "TRAIN" or "TEST".

    Raises:
        UserError: if something is not there or does not fit.
    """
    check_datasets(cfg, cfg.DATASETS[split])
    check_proposals(cfg, split)


def check_datasets(cfg: CfgNode, names: Sequence[str]) -> None:
    """Check that datasets are registered, that their files are there and their classes the model's.

    Datasets that say nothing of their files in their metadata pass, and of classes, those that
    learn them only when they are read.

    Args:
        cfg: of the model, see :func:`check_classes`.
        names: of datasets, e.g. ``DATASETS.TRAIN``.

    Raises:
        UserError: if it is not so.
    """
    check_files(names)
    check_classes(cfg, names)


def check_files(names: Sequence[str]) -> None:
    """Check that datasets are registered and that their files are there.

    Raises:
        UserError: if it is not so.
    """
    for name in names:
        _check_registered(name)
        _check_files(name)
        if name in mapillary.SPLITS:
            mapillary.read_classes(name)


def _check_registered(name: str) -> None:
    known = list(DatasetCatalog.list())
    if name in known:
        return
    close = closest(name, known, similarity=0.5)
    hint = f"; the closest names are {', '.join(map(repr, close))}" if close else ""
    raise UserError(f"Dataset {name!r} is not registered with detectron2{hint}.")


def _check_files(name: str) -> None:
    metadata = MetadataCatalog.get(name)
    if metadata.get("drawn_when_used"):
        return
    for key, what in _PATHS.items():
        path = metadata.get(key)
        if not path or "://" in path or PathManager.exists(path):
            continue
        source = next((url for start, url in _SOURCES.items() if name.startswith(start)), None)
        if source is None:
            advice = "mend the path that it is registered with"
        else:
            root = os.getenv("DETECTRON2_DATASETS", "datasets")
            advice = (
                f"download it from {source} into the folder that the environment variable "
                f"DETECTRON2_DATASETS names, {root!r} now"
            )
        raise UserError(f"Dataset {name!r} has no {what} at {path}; {advice}.")


def check_classes(cfg: CfgNode, names: Sequence[str]) -> None:
    """:func:`compare_classes` for the model of ``cfg``.

    Args:
        cfg: keys ``MODEL.META_ARCHITECTURE`` and, of the architectures with such a key, the
            ``NUM_CLASSES``; others pass.
        names: of datasets.
    """
    section = CLASS_SECTIONS.get(cfg.MODEL.META_ARCHITECTURE)
    if section is not None and section in cfg.MODEL:
        key = f"MODEL.{section}.NUM_CLASSES"
        compare_classes(names, cfg.MODEL[section].NUM_CLASSES, key)


def compare_classes(names: Sequence[str], num_classes: int, key: str) -> None:
    """Check that the model tells as many classes apart as the datasets have.

    If the model has more, only a warning says so.

    Args:
        names: of datasets; those without "thing_classes" in their metadata pass.
        num_classes: of the model.
        key: of the configuration, which says so.

    Raises:
        UserError: if a dataset has more, or if the datasets have different classes.
    """
    known: dict[str, list[str]] = {}
    for name in names:
        classes = MetadataCatalog.get(name).get("thing_classes")
        if classes is None:
            continue
        sizes = f"Dataset {name!r} has {len(classes)} classes, but {key} is {num_classes}"
        if len(classes) > num_classes:
            raise UserError(f"{sizes}; make them equal.")
        if len(classes) < num_classes:
            logger.warning("%s: evaluation fails if the model predicts one of the others.", sizes)
        known[name] = list(classes)
    for name, classes in known.items():
        first = next(iter(known))
        if classes != known[first]:
            raise UserError(
                f"Datasets {first!r} and {name!r} have different classes, or the same ones in "
                "another order; use datasets with the same list of classes."
            )
