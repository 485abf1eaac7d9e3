"""Custom datasets: ``DATASETS.OWN`` of a configuration, registered with detectron2."""

import logging
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.utils import comm

from panet.config import SPLITS
from panet.utils.choices import closest
from panet.utils.errors import UserError

from .coco_file import (
    Contents,
    MaskKinds,
    category_names,
    class_ids,
    read_coco_json,
    summarize,
    write_evaluation_file,
)
from .json_checks import (
    Defect,
    check_categories,
    check_existence,
    check_json,
    check_overlap_by_name,
    refuse_errors,
)

logger = logging.getLogger(__name__)


class CustomDataset(NamedTuple):
    """A dataset of ``DATASETS.OWN``.

    Attributes:
        split: "TRAIN", "VAL" or "TEST".
        name: to register it under.
        json_file: in COCO's format.
        image_root: the folder that the file names in it begin in.
        classes: in the model's order; empty if no file is there to name them.
        with_masks: whether the model learns masks.
    """

    split: str
    name: str
    json_file: Path
    image_root: Path
    classes: tuple[str, ...] = ()
    with_masks: bool = True


_registered: dict[str, CustomDataset] = {}


def custom_datasets(cfg: CfgNode) -> list[CustomDataset]:
    """What ``DATASETS.OWN`` names, in the order of :data:`panet.config.SPLITS`.

    Raises:
        UserError: if a JSON file is given without a folder of images, or the reverse.
    """
    datasets = []
    for split in SPLITS:
        section = cfg.DATASETS.OWN[split]
        if not section.JSON and not section.IMAGES:
            continue
        for key, what in (("JSON", "the JSON file"), ("IMAGES", "the folder of images")):
            if not section[key]:
                raise UserError(
                    f"DATASETS.OWN.{split}.{key} is empty; give it {what} of this dataset."
                )
        if not section.NAME:
            raise UserError(f"DATASETS.OWN.{split}.NAME is empty; give the dataset a name.")
        files = Path(section.JSON), Path(section.IMAGES)
        datasets.append(CustomDataset(split, section.NAME, *files, with_masks=cfg.MODEL.MASK_ON))
    return datasets


def use_custom_data(cfg: CfgNode) -> None:
    """Register the datasets of ``DATASETS.OWN`` and fit the rest of ``cfg`` to them, in place.

    If there is any, ``DATASETS.TRAIN`` and ``DATASETS.TEST`` become these, and what the files say
    replaces ``MODEL.ROI_HEADS.NUM_CLASSES``, ``MODEL.RETINANET.NUM_CLASSES`` and, if the masks are
    RLE, ``INPUT.MASK_FORMAT``. The classes are those of the first file, in the order of their ids,
    or of them those in ``DATASETS.OWN.CLASSES``.

    A file that is not there is no error yet, so that a model can be used elsewhere than where it
    was trained: :func:`panet.data.availability.check_datasets` tells it.

    Raises:
        UserError: if a file cannot be read, the files do not fit each other or ``cfg``, or a name
            is taken.
    """
    datasets = custom_datasets(cfg)
    if not datasets:
        if cfg.DATASETS.OWN.CLASSES:
            raise UserError(
                "DATASETS.OWN.CLASSES names classes of no file; give DATASETS.OWN.TRAIN.JSON too."
            )
        return
    contents = {
        dataset.split: _read_contents(dataset.json_file, dataset.json_file.stat().st_mtime_ns)
        for dataset in datasets
        if dataset.json_file.is_file()
    }
    classes: tuple[str, ...] = ()
    if contents:
        classes = _choose_classes(cfg, datasets, contents)
        _set_num_classes(cfg, len(classes))
        _set_mask_format(cfg, datasets, contents, classes)
    datasets = [dataset._replace(classes=classes) for dataset in datasets]
    for dataset in datasets:
        _register(dataset, datasets, Path(cfg.OUTPUT_DIR) / "own_data")
        _describe(dataset, contents.get(dataset.split))
    cfg.DATASETS.TRAIN = tuple(d.name for d in datasets if d.split == "TRAIN")
    cfg.DATASETS.TEST = tuple(d.name for d in datasets if d.split != "TRAIN")


# Programs may read the same configuration several times.
@lru_cache(maxsize=16)
def _read_contents(json_file: Path, _changed: int) -> Contents:
    content = read_coco_json(json_file)
    refuse_errors(check_categories(content, str(json_file)))
    return summarize(content)


def _choose_classes(
    cfg: CfgNode, datasets: Sequence[CustomDataset], contents: dict[str, Contents]
) -> tuple[str, ...]:
    files = {dataset.split: dataset.json_file for dataset in datasets}
    first = next(iter(contents))
    known = list(contents[first].categories.values())
    chosen = list(cfg.DATASETS.OWN.CLASSES)
    for name in chosen:
        if name not in known:
            close = closest(str(name), known)
            raise UserError(
                f"DATASETS.OWN.CLASSES has {name!r}, which is no class of {files[first]}; the "
                f"closest are {', '.join(map(repr, close))}."
            )
    if chosen:
        return tuple(name for name in known if name in chosen)
    for split, found in contents.items():
        for name, masks in found.masks.items():
            if name not in known and masks.total:
                raise UserError(
                    f"{files[split]} has the class {name!r}, which {files[first]} lacks; add it to "
                    "the categories there, or name the classes to use in DATASETS.OWN.CLASSES."
                )
    return tuple(known)


def _set_num_classes(cfg: CfgNode, number: int) -> None:
    for section in ("ROI_HEADS", "RETINANET"):
        old = cfg.MODEL[section].NUM_CLASSES
        if old not in (number, get_cfg().MODEL[section].NUM_CLASSES):
            _say(
                f"MODEL.{section}.NUM_CLASSES {old} becomes {number}, the number of classes in the "
                "data."
            )
        cfg.MODEL[section].NUM_CLASSES = number


def _set_mask_format(
    cfg: CfgNode,
    datasets: Sequence[CustomDataset],
    contents: dict[str, Contents],
    classes: Sequence[str],
) -> None:
    for dataset in datasets:
        if dataset.split not in contents:
            continue
        found = contents[dataset.split].masks
        kinds = [found[name] for name in classes if name in found]
        if cfg.MODEL.MASK_ON:
            _check_complete(dataset.json_file, kinds)
        has_rle = any(kind.rles for kind in kinds)
        if dataset.split == "TRAIN" and has_rle and cfg.INPUT.MASK_FORMAT != "bitmask":
            _say(
                f"INPUT.MASK_FORMAT {cfg.INPUT.MASK_FORMAT} becomes bitmask, because "
                f"{dataset.json_file} has masks as RLE."
            )
            cfg.INPUT.MASK_FORMAT = "bitmask"


def _check_complete(json_file: Path, kinds: Sequence[MaskKinds]) -> None:
    missing = sum(kind.missing for kind in kinds)
    if missing:
        example = next(kind.example for kind in kinds if kind.missing)
        raise UserError(
            f"{json_file} has {missing} annotations without a segmentation, e.g. that of id "
            f"{example}; set MODEL.MASK_ON False to learn boxes alone, or add the masks."
        )


def _say(message: str) -> None:
    if comm.is_main_process():
        logger.warning(message)


def _register(dataset: CustomDataset, together: Sequence[CustomDataset], folder: Path) -> None:
    name = dataset.name
    if name in DatasetCatalog.list():
        old = _registered.get(name)
        # Whoever registered it when its file was not there may have put the file there since.
        if old is None or not _is_same(old, dataset):
            raise UserError(
                f"DATASETS.OWN.{dataset.split}.NAME {name!r} is taken by another dataset; choose "
                "another name."
            )
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)
    _registered[name] = dataset
    load = partial(load_custom, dataset, together, folder / f"{name}.json")
    DatasetCatalog.register(name, load)


def _describe(dataset: CustomDataset, contents: Contents | None) -> None:
    """Fill the metadata, of which without a file little is known."""
    metadata = MetadataCatalog.get(dataset.name)
    metadata.set(evaluator_type="coco", image_root=str(dataset.image_root))
    if dataset.classes:
        metadata.set(thing_classes=list(dataset.classes))
    if contents is None:
        metadata.set(json_file=str(dataset.json_file))
    else:
        # Evaluators shall not read this file but the copy that load_custom writes.
        ids = class_ids(contents.categories, dataset.classes)
        metadata.set(thing_dataset_id_to_contiguous_id={n: i for i, n in enumerate(ids)})


def _is_same(old: CustomDataset, new: CustomDataset) -> bool:
    if not old.classes or not new.classes:
        old, new = old._replace(classes=()), new._replace(classes=())
    return old._replace(with_masks=new.with_masks) == new


def load_custom(
    dataset: CustomDataset, together: Sequence[CustomDataset], evaluation_file: Path
) -> list[dict[str, Any]]:
    """The records of a dataset in detectron2's format.

    Before, the file and its images' existence are checked; for training, those of all datasets
    that are ``together`` with it. So no training starts that would fail in its first evaluation.

    Args:
        dataset: to read.
        together: all that are used, itself too.
        evaluation_file: where to write the copy for COCO's metrics, if it is not for training.

    Raises:
        DatasetError: if the data has errors.
        UserError: if a file cannot be read.
    """
    checked = together if dataset.split == "TRAIN" else [dataset]
    found = [check_custom(each) for each in checked]
    if dataset.split == "TRAIN":
        found.append(overlaps(together))
    refuse_errors([defect for defects in found for defect in defects])
    for defects in found:
        _tell_warnings(defects)
    content = read_coco_json(dataset.json_file)
    if dataset.split != "TRAIN":
        write_evaluation_file(content, dataset.classes, evaluation_file)
        metadata = MetadataCatalog.get(dataset.name)
        if not metadata.get("json_file"):
            metadata.json_file = str(evaluation_file)
    indices = {
        number: dataset.classes.index(name)
        for number, name in category_names(content).items()
        if name in dataset.classes
    }
    # Given a name, it would take all classes and set the metadata by them.
    records: list[dict[str, Any]] = load_coco_json(str(dataset.json_file), str(dataset.image_root))
    for record in records:
        record["annotations"] = [
            {**annotation, "category_id": indices[annotation["category_id"]]}
            for annotation in record["annotations"]
            if annotation["category_id"] in indices
        ]
    return records


# Each evaluation reads its datasets anew.
@lru_cache(maxsize=16)
def _tell_warnings(defects: tuple[Defect, ...]) -> None:
    if defects:
        _say(
            f"The data has defects that do not stop training, {len(defects)} of them; "
            f"tools/check_dataset.py lists all. The first: {'; '.join(map(str, defects[:3]))}."
        )


def check_custom(dataset: CustomDataset) -> tuple[Defect, ...]:
    """All defects that the JSON file of a dataset and the names of its images show."""
    return _check_custom(dataset, dataset.json_file.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _check_custom(dataset: CustomDataset, _changed: int) -> tuple[Defect, ...]:
    content = read_coco_json(dataset.json_file)
    file = str(dataset.json_file)
    is_test = dataset.split != "TRAIN"
    defects = check_json(content, file, dataset.with_masks, dataset.classes, is_test)
    return (*defects, *check_existence(content, dataset.image_root))


def overlaps(datasets: Sequence[CustomDataset]) -> tuple[Defect, ...]:
    """A warning for every image of another dataset with the file name of one for training."""
    train = next((dataset for dataset in datasets if dataset.split == "TRAIN"), None)
    if train is None:
        return ()
    content = read_coco_json(train.json_file)
    return tuple(
        defect
        for other in datasets
        if other.split != "TRAIN"
        for defect in check_overlap_by_name(
            content, str(train.json_file), read_coco_json(other.json_file), str(other.json_file)
        )
    )
