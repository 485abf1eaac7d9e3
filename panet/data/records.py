"""Reading the records of registered datasets."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts

from panet.utils.errors import UserError

from .availability import check_classes
from .proposals import load_proposals

_BY_CATEGORY = (
    "ClassBalancedTrainingSampler",
    "RepeatFactorTrainingSampler",
    "WeightedCategoryTrainingSampler",
)


@contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    """Convert detectron2's errors to a ``UserError`` of one line that names the dataset.

    They are raised for missing or invalid files and for packages that are not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"Dataset {name!r} requires the package {error.name}; run pip install {error.name}."
        ) from error
    except (AssertionError, OSError, json.JSONDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"Dataset {name!r} cannot be read; check that it is complete: {reason}"
        ) from error


def read_records(
    names: str | Sequence[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Read the records of datasets and, if given, their proposals.

    Unlike detectron2's ``get_detection_dataset_dicts``, this supports a mix of datasets with
    "annotations" and with instance maps, and reads proposals with
    :func:`panet.data.proposals.load_proposals`.

    Args:
        names: one or several registered datasets.
        filter_empty: whether to skip images without annotations, in datasets with "annotations".
        min_keypoints: images with fewer keypoints are skipped.
        proposal_files: one for each dataset; None for no proposals.

    Raises:
        UserError: if a dataset or its proposals cannot be read.
    """
    found = []
    for position, name in enumerate([names] if isinstance(names, str) else names):
        with _one_line_errors(name):
            records = get_detection_dataset_dicts(
                [name], filter_empty=filter_empty, min_keypoints=min_keypoints
            )
            if proposal_files is not None:
                records = load_proposals(records, proposal_files[position])
        found += records
    return found


def read_train_records(cfg: CfgNode) -> list[list[dict[str, Any]]]:
    """Read the records of each dataset of ``DATASETS.TRAIN``, see :func:`read_records`.

    Images without annotations are skipped if ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``.

    Raises:
        UserError: if there is no dataset, one cannot be read, its classes do not match the model,
            or it has no annotations although the sampler needs them.
    """
    names = cfg.DATASETS.TRAIN
    if not names:
        raise UserError("DATASETS.TRAIN is empty; set it to a dataset to train on.")
    min_keypoints = (
        cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    )
    found = []
    for position, name in enumerate(names):
        files = cfg.DATASETS.PROPOSAL_FILES_TRAIN[position : position + 1]
        records = read_records(
            name,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            min_keypoints=min_keypoints,
            proposal_files=files if cfg.MODEL.LOAD_PROPOSALS else None,
        )
        if cfg.DATALOADER.SAMPLER_TRAIN in _BY_CATEGORY and "annotations" not in records[0]:
            raise UserError(
                f"DATALOADER.SAMPLER_TRAIN is {cfg.DATALOADER.SAMPLER_TRAIN}, which counts "
                f"annotations, but dataset {name!r} does not list any; use TrainingSampler."
            )
        found.append(records)
    check_classes(cfg, names)
    return found
