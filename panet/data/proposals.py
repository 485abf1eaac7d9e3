"""Proposals that a detector reads from files instead of making them with an RPN of its own.

The files have detectron2's format and are read without running code from them.
"""

import logging
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from panet.utils.errors import UserError
from panet.utils.safe_pickle import load_pickle

logger = logging.getLogger(__name__)

# Detectron's own files have other names for these.
_FORMER_NAMES = {"ids": "indexes", "objectness_logits": "scores"}


def load_proposals(records: list[dict[str, Any]], proposal_file: str) -> list[dict[str, Any]]:
    """Add the proposals of a file to the images of a dataset.

    Args:
        records: in detectron2's dataset format. Each gets "proposal_boxes", (N, 4),
            "proposal_objectness_logits", (N,), the largest first, and "proposal_bbox_mode".
        proposal_file: a pickled dict of "ids", the images' ids, and, for each of these, "boxes",
            (N, 4), and "objectness_logits", (N,), all numpy arrays; its "bbox_mode" is by default
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
            "objectness_logits; it must have as many of each."
        )
    mode = BoxMode(content.get("bbox_mode", BoxMode.XYXY_ABS))
    index_of = {str(image_id): index for index, image_id in enumerate(ids)}
    missing = [record for record in records if str(record["image_id"]) not in index_of]
    if missing:
        raise UserError(
            f"{proposal_file} has no proposals for {len(missing)} of the {len(records)} images of "
            f"the dataset, such as {missing[0]['image_id']!r}; write it anew with "
            "tools/write_proposals.py."
        )
    for record in records:
        index = index_of[str(record["image_id"])]
        if np.shape(boxes[index]) != (len(logits[index]), 4):
            raise UserError(
                f"{proposal_file} has boxes of shape {np.shape(boxes[index])} for image "
                f"{record['image_id']!r}, and {len(logits[index])} objectness_logits; it must be "
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
        f"{proposal_file} is no file of proposals: it has no {name!r}; write one with "
        "tools/write_proposals.py."
    )


def check_proposals(cfg: CfgNode, split: str) -> None:
    """Check that every dataset of a split has its file of proposals, if the model reads any.

    Args:
        cfg: keys ``MODEL.LOAD_PROPOSALS``, ``MODEL.PROPOSAL_GENERATOR.NAME``, ``DATASETS``.
        split: "TRAIN" or "TEST".

    Raises:
        UserError: if there are more or fewer files than datasets, one is not there, or the model
            needs them and does not read them.
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
            f"{key} names {len(files)} files for the {len(names)} datasets of DATASETS.{split};"
            " name one for each, written by tools/write_proposals.py."
        )
    for name, file in zip(names, files):
        if "://" not in file and not PathManager.isfile(file):
            raise UserError(
                f"{key} names {file} for dataset {name!r}, which does not exist; write it with "
                "tools/write_proposals.py."
            )
