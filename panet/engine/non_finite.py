"""Keeping the names of the images whose loss is infinite or NaN."""

import json
import math
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from torch import Tensor, nn


class NonFiniteLosses:
    """Watches a model in training, and writes down the first batch with a loss that is not finite.

    Attributes:
        file: where this process writes it, as JSON with "losses" and "file_names".
    """

    def __init__(self, model: nn.Module, output_dir: Path) -> None:
        """
        Args:
            model: takes batches in detectron2's input format and returns losses.
            output_dir: folder of the run.
        """
        self.file = output_dir / f"non_finite_batch_{comm.get_rank()}.json"
        model.register_forward_hook(self._check)

    def _check(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not module.training or not isinstance(output, dict):
            return
        losses = {name: loss.item() for name, loss in output.items() if isinstance(loss, Tensor)}
        if all(map(math.isfinite, losses.values())):
            return
        names = [record.get("file_name") for record in inputs[0]]
        # JSON has no NaN.
        written = {name: str(loss) for name, loss in losses.items()}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps({"losses": written, "file_names": names}, indent=2) + "\n")
