"""Projects whose checkpoints can be converted, by name."""

from .mmdet import MMDET
from .panet_pytorch import PANET_PYTORCH
from .source import Source

SOURCES: dict[str, Source] = {source.name: source for source in (PANET_PYTORCH, MMDET)}
