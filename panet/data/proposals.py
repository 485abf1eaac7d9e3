"""Precomputed proposals, read from files in detectron2's format without executing code in them."""

import logging
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from panet.utils.errors import UserError
from panet.utils.safe_pickle import load_pickle

logger = logging.getLogger(__name__)

# Keys in the files of the original Detectron.
_FORMER_NAMES = {"ids": "indexes", "objectness_logits": "scores"}


def load_proposals(records: list[dict[str, Any]], proposal_file: str) -> list[dict[str, Any]]:
    """Add the proposals of a file to the records of a dataset.

    Args:
        records: in detectron2's dataset format. Each gets "proposal_boxes", (N, 4),
            "proposal_objectness_logits", (N,), in descending order, and "proposal_bbox_mode".
        proposal_file: a pickled dict of image "ids" and, for each image, "boxes", (N, 4), and
            "objectness_logits", (N,), as numpy arrays. "bbox_mode" defaults to
            ``BoxMode.XYXY_ABS``.

    Returns:
        ``records``.

    Raises:
        UserError: if the file is missing, damaged or unsafe, or lacks an image of the dataset.
    """
    logger.info("Reading proposals from %s ...", proposal_file)
    content = load_pickle(proposal_file, {("detectron2.structures.boxes", "BoxMode"): int})
    ids, boxes, logits = (
        _per_image(content, name, proposal_file) for name in ("ids", "boxes", "objectness_logits")
    )
    if not len(ids) == len(boxes) == len(logits):
        raise UserError(
            f"{proposal_file} has {len(ids)} ids, {len(boxes)} boxes and {len(logits)} "
            "objectness_logits; the numbers must be equal."
        )
    mode = BoxMode(content.get("bbox_mode", BoxMode.XYXY_ABS))
    index_of = {str(image_id): index for index, image_id in enumerate(ids)}
    missing = [record for record in records if str(record["image_id"]) not in index_of]
    if missing:
        raise UserError(
            f"{proposal_file} has no proposals for {len(missing)} of the {len(records)} images of "
            f"the dataset, e.g. {missing[0]['image_id']!r}; write it again with panet proposals."
        )
    for record in records:
        index = index_of[str(record["image_id"])]
        if np.shape(boxes[index]) != (len(logits[index]), 4):
            raise UserError(
                f"{proposal_file} has boxes of shape {np.shape(boxes[index])} for image "
                f"{record['image_id']!r}, and {len(logits[index])} objectness_logits; they must be "
                "(N, 4) and N."
            )
        order = np.argsort(-logits[index], kind="stable")
        record["proposal_boxes"] = boxes[index][order]
        record["proposal_objectness_logits"] = logits[index][order]
        record["proposal_bbox_mode"] = mode
    return records


def _per_image(content: Any, name: str, proposal_file: str) -> Any:
    for key in (name, _FORMER_NAMES.get(name)):
        if isinstance(content, dict) and key in content:
            return content[key]
    raise UserError(
        f"{proposal_file} is not a proposal file, because it has no {name!r}; write one with panet "
        "proposals."
    )


def check_proposals(cfg: CfgNode, split: str) -> None:
    """Check that each dataset of a split has a proposal file, if the model reads proposals.

    Args:
        cfg: keys ``MODEL.LOAD_PROPOSALS``, ``MODEL.PROPOSAL_GENERATOR.NAME``, ``DATASETS``.
        split: "TRAIN" or "TEST".

    Raises:
        UserError: if the numbers of files and datasets differ, a file does not exist, or the model
            needs proposals but ``MODEL.LOAD_PROPOSALS`` is False.
    """
    if not cfg.MODEL.LOAD_PROPOSALS:
        if cfg.MODEL.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals":
            raise UserError(
                "MODEL.PROPOSAL_GENERATOR.NAME is 'PrecomputedProposals', so MODEL.LOAD_PROPOSALS "
                "must be True."
            )
        return
    key = f"DATASETS.PROPOSAL_FILES_{split}"
    names, files = cfg.DATASETS[split], cfg.DATASETS[f"PROPOSAL_FILES_{split}"]
    if names and len(files) != len(names):
        raise UserError(
            f"{key} names {len(files)} files for the {len(names)} datasets of DATASETS.{split}; "
            "name one for each, written by panet proposals."
        )
    for name, file in zip(names, files):
        if "://" not in file and not PathManager.isfile(file):
            raise UserError(
                f"{key} names {file} for dataset {name!r}, which does not exist; write it with "
                "panet proposals."
            )
