"""PANet for detectron2.

Liu et al., "Path Aggregation Network for Instance Segmentation", CVPR 2018.

Importing the package registers its backbones, heads and datasets with detectron2. Its other public
names are imported at their first use.
"""

import importlib
from typing import Any

try:
    import detectron2  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "detectron2":
        raise
    raise ModuleNotFoundError(
        "panet needs detectron2: run `panet install-detectron2`, or install it from "
        "https://github.com/facebookresearch/detectron2.",
        name="detectron2",
    ) from None

from . import data, modeling
from .config import add_panet_config, load_config
from .version import __version__

_LAZY = {
    "Predictor": ".prediction",
    "model_zoo": "",
    "optimize_for_inference": ".deployment",
}
"""Public names and the modules that define them."""

__all__ = [
    "Predictor",
    "__version__",
    "add_panet_config",
    "data",
    "load_config",
    "model_zoo",
    "modeling",
    "optimize_for_inference",
]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, see PEP 562."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "model_zoo":
        return importlib.import_module(".model_zoo", __name__)
    return getattr(importlib.import_module(_LAZY[name], __name__), name)
