"""Registration of the custom datasets in ``DATASETS.OWN``."""

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
    check_shared_images,
    refuse_errors,
)

logger = logging.getLogger(__name__)


class CustomDataset(NamedTuple):
    """A dataset of ``DATASETS.OWN``.

    Attributes:
        split: "TRAIN", "VAL" or "TEST".
        name: under which it is registered.
        json_file: in COCO's format.
        image_root: folder that the file names in it are relative to.
        classes: in the model's order; empty if there is no file to read them from.
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
    """The datasets of ``DATASETS.OWN`` in the order of :data:`panet.config.SPLITS`.

    Raises:
        UserError: if only one of the JSON file and the folder of images is given, or no name.
    """
    datasets = []
    for split in SPLITS:
        section = cfg.DATASETS.OWN[split]
        if not section.JSON and not section.IMAGES:
            continue
        options = {"JSON": "JSON file", "IMAGES": "folder of images", "NAME": "name"}
        for key, what in options.items():
            if not section[key]:
                raise UserError(
                    f"DATASETS.OWN.{split}.{key} is empty; set it to the {what} of this dataset."
                )
        files = Path(section.JSON), Path(section.IMAGES)
        datasets.append(CustomDataset(split, section.NAME, *files, with_masks=cfg.MODEL.MASK_ON))
    return datasets


def use_custom_data(cfg: CfgNode) -> None:
    """Register the datasets of ``DATASETS.OWN`` and adapt ``cfg`` to them, in place.

    If there are any, they replace ``DATASETS.TRAIN`` and ``DATASETS.TEST``. Their files determine
    ``MODEL.ROI_HEADS.NUM_CLASSES``, ``MODEL.RETINANET.NUM_CLASSES`` and, if masks are RLEs,
    ``INPUT.MASK_FORMAT``. The classes are those of the first file, ordered by category id, or the
    subset in ``DATASETS.OWN.CLASSES``.

    A missing file is not an error here, so that a model can be used where its training data is not
    available; :func:`panet.data.availability.check_datasets` reports it.

    Raises:
        UserError: if a file cannot be read, does not match the others or ``cfg``, or a name is
            already registered.
    """
    datasets = custom_datasets(cfg)
    if not datasets:
        if cfg.DATASETS.OWN.CLASSES:
            raise UserError(
                "DATASETS.OWN.CLASSES is set, but no dataset; set DATASETS.OWN.TRAIN.JSON too."
            )
        return
    contents = {
        dataset: _read_contents(dataset.json_file, dataset.json_file.stat().st_mtime_ns)
        for dataset in datasets
        if dataset.json_file.is_file()
    }
    classes: tuple[str, ...] = ()
    if contents:
        classes = _choose_classes(cfg, contents)
        _set_num_classes(cfg, len(classes))
        _set_mask_format(cfg, contents, classes)
    together = [dataset._replace(classes=classes) for dataset in datasets]
    for dataset, content in zip(together, map(contents.get, datasets)):
        _register(dataset, together, Path(cfg.OUTPUT_DIR) / "own_data")
        _describe(dataset, content)
    cfg.DATASETS.TRAIN = tuple(d.name for d in datasets if d.split == "TRAIN")
    cfg.DATASETS.TEST = tuple(d.name for d in datasets if d.split != "TRAIN")


# Cached, because programs may read the same configuration several times.
@lru_cache(maxsize=16)
def _read_contents(json_file: Path, _modified: int) -> Contents:
    content = read_coco_json(json_file)
    refuse_errors(check_categories(content, str(json_file)))
    return summarize(content)


def _choose_classes(cfg: CfgNode, contents: dict[CustomDataset, Contents]) -> tuple[str, ...]:
    first, *others = contents
    known = list(contents[first].categories.values())
    chosen = list(cfg.DATASETS.OWN.CLASSES)
    for name in chosen:
        if name not in known:
            close = closest(str(name), known)
            raise UserError(
                f"DATASETS.OWN.CLASSES names {name!r}, which is not a class of {first.json_file}; "
                f"the closest names are {', '.join(map(repr, close))}."
            )
    if chosen:
        return tuple(name for name in known if name in chosen)
    for other in others:
        for name, masks in contents[other].masks.items():
            if name not in known and masks.total:
                raise UserError(
                    f"{other.json_file} has the class {name!r}, which {first.json_file} lacks; "
                    "add it to the categories there, or list the classes to use in "
                    "DATASETS.OWN.CLASSES."
                )
    return tuple(known)


def _set_num_classes(cfg: CfgNode, number: int) -> None:
    for section in ("ROI_HEADS", "RETINANET"):
        old = cfg.MODEL[section].NUM_CLASSES
        if old not in (number, get_cfg().MODEL[section].NUM_CLASSES):
            _warn(
                f"MODEL.{section}.NUM_CLASSES is changed from {old} to {number}, the number of "
                "classes in the dataset."
            )
        cfg.MODEL[section].NUM_CLASSES = number


def _set_mask_format(
    cfg: CfgNode, contents: dict[CustomDataset, Contents], classes: Sequence[str]
) -> None:
    for dataset, content in contents.items():
        kinds = [content.masks[name] for name in classes if name in content.masks]
        incomplete = [kind for kind in kinds if kind.missing]
        if cfg.MODEL.MASK_ON and incomplete:
            raise UserError(
                f"{dataset.json_file} has {sum(kind.missing for kind in incomplete)} annotations "
                f"without a segmentation, e.g. the one with id {incomplete[0].example}; add the "
                "masks, or set MODEL.MASK_ON False to train with boxes only."
            )
        has_rle = any(kind.rles for kind in kinds)
        if dataset.split == "TRAIN" and has_rle and cfg.INPUT.MASK_FORMAT != "bitmask":
            _warn(
                f"INPUT.MASK_FORMAT is changed from {cfg.INPUT.MASK_FORMAT} to bitmask, because "
                f"{dataset.json_file} has masks as RLE."
            )
            cfg.INPUT.MASK_FORMAT = "bitmask"


def _warn(message: str) -> None:
    if comm.is_main_process():
        logger.warning(message)


def _register(dataset: CustomDataset, together: Sequence[CustomDataset], folder: Path) -> None:
    name = dataset.name
    if name in DatasetCatalog.list():
        old = _registered.get(name)
        # The classes are unknown if the file did not exist at the time.
        known_classes = {each.classes for each in (old, dataset) if each and each.classes}
        if old is None or old[:4] != dataset[:4] or len(known_classes) > 1:
            raise UserError(
                f"DATASETS.OWN.{dataset.split}.NAME is {name!r}, which is registered as another "
                "dataset; choose another name."
            )
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)
    _registered[name] = dataset
    load = partial(load_custom, dataset, together, folder / f"{name}.json")
    DatasetCatalog.register(name, load)


def _describe(dataset: CustomDataset, contents: Contents | None) -> None:
    """Set the metadata; ``contents`` is None if the JSON file does not exist."""
    metadata = MetadataCatalog.get(dataset.name)
    metadata.set(evaluator_type="coco", image_root=str(dataset.image_root))
    if dataset.classes:
        metadata.set(thing_classes=list(dataset.classes))
    if contents is None:
        metadata.set(json_file=str(dataset.json_file))
    else:
        # json_file is not set: evaluators read the copy that load_custom writes.
        ids = class_ids(contents.categories, dataset.classes)
        metadata.set(thing_dataset_id_to_contiguous_id={n: i for i, n in enumerate(ids)})


def load_custom(
    dataset: CustomDataset, together: Sequence[CustomDataset], evaluation_file: Path
) -> list[dict[str, Any]]:
    """Check a dataset and read its records in detectron2's format.

    The JSON file and the existence of the images are checked first. For a training set, so are all
    other datasets, so that a training does not fail in its first evaluation.

    Args:
        dataset: to read.
        together: all datasets in use, including ``dataset``.
        evaluation_file: the copy for COCO's metrics to write, unless ``dataset`` is for training.

    Raises:
        DatasetError: if a dataset has errors.
        UserError: if a file cannot be read.
    """
    is_train = dataset.split == "TRAIN"
    found = [
        _check(each, each.json_file.stat().st_mtime_ns)
        for each in (together if is_train else [dataset])
    ]
    content = read_coco_json(dataset.json_file)
    if is_train:
        file = str(dataset.json_file)
        found += [
            tuple(
                check_shared_images(
                    content,
                    dataset.image_root,
                    file,
                    read_coco_json(other.json_file),
                    other.image_root,
                    str(other.json_file),
                )
            )
            for other in together
            if other.split != "TRAIN"
        ]
    refuse_errors([defect for defects in found for defect in defects])
    for defects in found:
        _warn_about(defects)
    if not is_train:
        write_evaluation_file(content, dataset.classes, evaluation_file)
        metadata = MetadataCatalog.get(dataset.name)
        if not metadata.get("json_file"):
            metadata.json_file = str(evaluation_file)
    indices = {
        number: dataset.classes.index(name)
        for number, name in category_names(content).items()
        if name in dataset.classes
    }
    # Without the dataset's name, which would select all classes and overwrite the metadata.
    records: list[dict[str, Any]] = load_coco_json(str(dataset.json_file), str(dataset.image_root))
    for record in records:
        record["annotations"] = [
            {**annotation, "category_id": indices[annotation["category_id"]]}
            for annotation in record["annotations"]
            if annotation["category_id"] in indices
        ]
    return records


# Cached to warn once: each evaluation reads its datasets again.
@lru_cache(maxsize=16)
def _warn_about(defects: tuple[Defect, ...]) -> None:
    if defects:
        _warn(
            f"The dataset has {len(defects)} defects that do not prevent training; list all with "
            f"panet check. The first ones: {'; '.join(map(str, defects[:3]))}."
        )


@lru_cache(maxsize=16)
def _check(dataset: CustomDataset, _modified: int) -> tuple[Defect, ...]:
    content = read_coco_json(dataset.json_file)
    file = str(dataset.json_file)
    is_test = dataset.split != "TRAIN"
    defects = check_json(content, file, dataset.with_masks, dataset.classes, is_test)
    return (*defects, *check_existence(content, dataset.image_root))
