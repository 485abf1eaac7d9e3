"""Checks that the datasets of a configuration exist and match the model."""

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
"""Keys of detectron2's metadata that hold paths, and what they point to."""

_SOURCES = {
    "coco_": "cocodataset.org/#download",
    "keypoints_coco_": "cocodataset.org/#download",
    "lvis_": "lvisdataset.org, its images from cocodataset.org/#download",
    "cityscapes_": "www.cityscapes-dataset.com",
    "mapillary_vistas_": "www.mapillary.com/dataset/vistas",
    "nuclei_": "bbbc.broadinstitute.org/BBBC038 and convert it, by projects/nuclei/"
    "prepare_nuclei.py,",
    "voc_": "host.robots.ox.ac.uk/pascal/VOC",
    "ade20k_": "sceneparsing.csail.mit.edu",
}
"""Download sources of datasets by prefixes of their names."""

CLASS_SECTIONS = {
    "GeneralizedRCNN": "ROI_HEADS",
    "PanopticFPN": "ROI_HEADS",
    "RetinaNet": "RETINANET",
}
"""The section of MODEL that holds NUM_CLASSES, by META_ARCHITECTURE."""


def check_split(cfg: CfgNode, split: str) -> None:
    """Check the datasets of a split and, if the model reads proposals, their proposal files.

    Args:
        cfg: keys ``DATASETS`` and ``MODEL``.
        split: "TRAIN" or "TEST".

    Raises:
        UserError: if something is missing or does not match the model.
    """
    check_datasets(cfg, cfg.DATASETS[split])
    check_proposals(cfg, split)


def check_datasets(cfg: CfgNode, names: Sequence[str]) -> None:
    """Check that datasets are registered, that their files exist and their classes match the model.

    Files and classes are checked only if the metadata of a dataset names them.

    Args:
        cfg: of the model, see :func:`check_classes`.
        names: of datasets, e.g. ``DATASETS.TRAIN``.

    Raises:
        UserError: if a check fails.
    """
    check_files(names)
    check_classes(cfg, names)


def check_files(names: Sequence[str]) -> None:
    """Check that datasets are registered and that their files exist.

    Raises:
        UserError: if a check fails.
    """
    known = list(DatasetCatalog.list())
    for name in names:
        if name not in known:
            close = closest(name, known, similarity=0.5)
            hint = f"; the closest names are {', '.join(map(repr, close))}" if close else ""
            raise UserError(f"Dataset {name!r} is not registered with detectron2{hint}.")
        _check_paths(name)
        if name in mapillary.SPLITS:
            mapillary.read_classes(name)


def _check_paths(name: str) -> None:
    metadata = MetadataCatalog.get(name)
    if metadata.get("drawn_when_used"):
        return
    for key, what in _PATHS.items():
        path = metadata.get(key)
        if not path or "://" in path or PathManager.exists(path):
            continue
        source = next((url for start, url in _SOURCES.items() if name.startswith(start)), None)
        if source is None:
            advice = "correct the path in its registration"
        else:
            root = os.getenv("DETECTRON2_DATASETS", "datasets")
            advice = (
                f"download it from {source} to the folder that the environment variable "
                f"DETECTRON2_DATASETS names, currently {root!r}"
            )
        raise UserError(f"Dataset {name!r} has no {what} at {path}; {advice}.")


def check_classes(cfg: CfgNode, names: Sequence[str]) -> None:
    """Apply :func:`compare_classes` to the model of ``cfg``.

    Args:
        cfg: keys ``MODEL.META_ARCHITECTURE`` and, if the architecture has one, its
            ``NUM_CLASSES``; other architectures are not checked.
        names: of datasets.
    """
    section = CLASS_SECTIONS.get(cfg.MODEL.META_ARCHITECTURE)
    if section is not None and section in cfg.MODEL:
        key = f"MODEL.{section}.NUM_CLASSES"
        compare_classes(names, cfg.MODEL[section].NUM_CLASSES, key)


def compare_classes(names: Sequence[str], num_classes: int, key: str) -> None:
    """Check that the model has as many classes as the datasets.

    If the model has more classes, a warning is logged.

    Args:
        names: of datasets; those without "thing_classes" in their metadata are not checked.
        num_classes: of the model.
        key: configuration key of ``num_classes``.

    Raises:
        UserError: if a dataset has more classes, or if the datasets have different classes.
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
            logger.warning(
                "%s; evaluation fails if the model predicts one of the extra classes.", sizes
            )
        known[name] = list(classes)
    for name, classes in known.items():
        first = next(iter(known))
        if classes != known[first]:
            raise UserError(
                f"Datasets {first!r} and {name!r} have different classes, or the same classes in a "
                "different order; use datasets with the same list of classes."
            )
