"""What results depend on, so that a folder holds those of one model only."""

import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from panet.deployment import member_configs
from panet.utils.errors import DownloadError, UserError

_KEYS = ("MODEL", "INPUT", "TEST")
_NO_MATTER = (
    "MODEL.WEIGHTS",
    "MODEL.DEVICE",
    "TEST.EVAL_PERIOD",
    "TEST.EXPECTED_RESULTS",
    "TEST.ENSEMBLE.MEMBERS",
)


def prediction_settings(cfg: CfgNode) -> dict[str, Any]:
    """The parts of a configuration that results may depend on, by key, and "weights".

    Args:
        cfg: as from :func:`panet.prediction.predictor.prediction_config`.

    Returns:
        Values as JSON has them. "weights" is a digest of the file, wherever it lies; of an
        ensemble, the settings of its members.

    Raises:
        UserError: if the weights are not there.
    """
    values = {
        key: value
        for section in _KEYS
        for key, value in _flatten(cfg[section], f"{section}.").items()
        if key not in _NO_MATTER and "_TRAIN" not in key
    }
    if cfg.TEST.ENSEMBLE.MEMBERS:
        values["weights"] = [prediction_settings(member) for member in member_configs(cfg)]
    else:
        values["weights"] = _digest(_local_file(cfg.MODEL.WEIGHTS))
    settings: dict[str, Any] = json.loads(json.dumps(values))
    return settings


def _flatten(node: CfgNode, prefix: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, CfgNode):
            values.update(_flatten(value, f"{prefix}{key}."))
        else:
            values[f"{prefix}{key}"] = value
    return values


def _local_file(weights: str) -> Path:
    file = urlparse(weights)._replace(query="").geturl()
    if "://" in file:
        try:
            return Path(PathManager.get_local_path(file))
        except OSError as error:
            raise DownloadError(
                f"{file} cannot be downloaded ({error}); give MODEL.WEIGHTS a copy of it that is "
                "on this machine."
            ) from error
    if not Path(file).is_file():
        raise UserError(f"There is no checkpoint {file}; give the weights of a trained model.")
    return Path(file)


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
