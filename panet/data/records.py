"""Reading the records of the datasets that a configuration names."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts

from panet.errors import InputError

from .availability import check_classes

_BY_CATEGORY = ("RepeatFactorTrainingSampler", "WeightedCategoryTrainingSampler")


@contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """Turn detectron2's errors at a dataset's files into an ``InputError``.

    They come from missing or wrong files, or from a package that is not installed.

    Args:
        name: of the dataset.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"Dataset {name!r} is read with the package {error.name}; run pip install {error.name}."
        ) from error
    except (AssertionError, OSError, json.JSONDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"Dataset {name!r} cannot be read, see that it is complete: {reason}"
        ) from error


def read_train_records(cfg: CfgNode) -> list[dict[str, Any]]:
    """The records of all datasets in ``DATASETS.TRAIN``, with their proposals if they have files.

    Unlike with detectron2's own function, some of the datasets may have "annotations" and others
    instance maps. Of the former, images without annotations are left out if
    ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``.

    Raises:
        InputError: if there is no dataset, one cannot be read, has other classes than the model, or
            has no categories to sample by.
    """
    names = cfg.DATASETS.TRAIN
    if not names:
        raise InputError("DATASETS.TRAIN is empty; name a dataset to train on.")
    min_keypoints = (
        cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    )
    parts = []
    for position, name in enumerate(names):
        files = cfg.DATASETS.PROPOSAL_FILES_TRAIN[position : position + 1]
        with one_line_errors(name):
            records = get_detection_dataset_dicts(
                [name],
                filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
                min_keypoints=min_keypoints,
                proposal_files=files if cfg.MODEL.LOAD_PROPOSALS else None,
            )
        if cfg.DATALOADER.SAMPLER_TRAIN in _BY_CATEGORY and "annotations" not in records[0]:
            raise InputError(
                f"DATALOADER.SAMPLER_TRAIN {cfg.DATALOADER.SAMPLER_TRAIN} counts annotations, which"
                f" dataset {name!r} does not list; choose TrainingSampler."
            )
        parts.append(records)
    check_classes(cfg, names)
    return list(chain.from_iterable(parts))
