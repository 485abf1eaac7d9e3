"""Paths in the repository."""

from pathlib import Path

import detectron2

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
BENCHMARKS = ROOT / "benchmarks"
NUCLEI = ROOT / "projects" / "nuclei"

_package = Path(detectron2.__file__).parent
DETECTRON2_CONFIGS = next(
    folder
    for folder in (_package / "model_zoo" / "configs", _package.parent / "configs")
    if folder.is_dir()
)
"""detectron2's configurations: inside an installed package, next to it in a source tree."""
