"""PANet for detectron2.

Liu et al., "Path Aggregation Network for Instance Segmentation", CVPR 2018.

Importing the package registers its backbones, heads and datasets with detectron2.
"""

import warnings

try:
    import detectron2  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "detectron2":
        raise
    raise ModuleNotFoundError(
        "panet needs detectron2, which is not installed: run `make install` in panet's clone, or "
        "install it from https://github.com/facebookresearch/detectron2.",
        name="detectron2",
    ) from None

with warnings.catch_warnings():
    # fvcore and detectron2 compile functions at import, in a way that PyTorch warns of.
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
    from . import data, modeling

from .config import add_panet_config, load_config
from .deployment.optimize import optimize_for_inference
from .prediction import Predictor
from .version import __version__

__all__ = [
    "Predictor",
    "__version__",
    "add_panet_config",
    "data",
    "load_config",
    "modeling",
    "optimize_for_inference",
]
