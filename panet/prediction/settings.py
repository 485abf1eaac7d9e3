"""Settings that results depend on, to keep those of different models apart."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from panet.deployment import member_configs
from panet.utils.digest import sha256
from panet.utils.errors import DownloadError, UserError

_KEYS = ("MODEL", "INPUT", "TEST")
_IGNORED = (
    "MODEL.WEIGHTS",
    "MODEL.DEVICE",
    "TEST.EVAL_PERIOD",
    "TEST.EXPECTED_RESULTS",
    "TEST.ENSEMBLE.MEMBERS",
)


def prediction_settings(cfg: CfgNode) -> dict[str, Any]:
    """Collect the parts of a configuration that results may depend on.

    Args:
        cfg: configuration from :func:`panet.prediction.predictor.prediction_config`.

    Returns:
        JSON-compatible values by configuration key, and "weights": a digest of the file's content
        or, for an ensemble, the settings of its members.

    Raises:
        UserError: if the weights do not exist.
    """
    values = {
        key: value
        for section in _KEYS
        for key, value in _flatten(cfg[section], f"{section}.")
        if key not in _IGNORED and "_TRAIN" not in key
    }
    if cfg.TEST.ENSEMBLE.MEMBERS:
        values["weights"] = [prediction_settings(member) for member in member_configs(cfg)]
    else:
        values["weights"] = sha256(_local_file(cfg.MODEL.WEIGHTS))
    settings: dict[str, Any] = json.loads(json.dumps(values))
    return settings


def _flatten(node: CfgNode, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _local_file(weights: str) -> Path:
    file = urlparse(weights)._replace(query="").geturl()
    if "://" in file:
        try:
            return Path(PathManager.get_local_path(file))
        except DownloadError:
            raise
        except OSError as error:
            raise DownloadError(
                f"{file} cannot be downloaded ({error}); set MODEL.WEIGHTS to a local copy."
            ) from error
    if not Path(file).is_file():
        raise UserError(
            f"There is no checkpoint {file}; set MODEL.WEIGHTS to that of a trained model."
        )
    return Path(file)
