"""Recording the images of a batch with an infinite or NaN loss."""

import json
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from panet.utils.device import HostCopy


class NonFiniteLosses:
    """Writes the file names of the last batch if one of its losses is infinite or NaN.

    Attributes:
        file: the JSON file of this process, with "losses" and "file_names".
        files: pattern of the files of all processes.
    """

    def __init__(self, model: nn.Module, output_dir: Path) -> None:
        """
        Args:
            model: maps batches in detectron2's input format to losses.
            output_dir: folder of the run.
        """
        self.file = output_dir / f"non_finite_batch_{comm.get_rank()}.json"
        self.files = self.file if comm.get_world_size() == 1 else output_dir / "non_finite_batch_*"
        self._names: list[str] = []
        self._losses: HostCopy | None = None
        self._batch: list[dict[str, Any]] = []
        model.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Copy the losses to the host without waiting for the device."""
        if not module.training or not isinstance(output, dict):
            return
        losses = {name: loss for name, loss in output.items() if isinstance(loss, Tensor)}
        if not losses:
            return
        self._names = list(losses)
        self._losses = HostCopy(torch.stack([loss.detach().float() for loss in losses.values()]))
        self._batch = inputs[0]

    def check(self) -> None:
        """Write the file if a loss of the last batch is infinite or NaN."""
        if self._losses is None:
            return
        losses, self._losses = self._losses.read(), None
        batch, self._batch = self._batch, []
        if losses.isfinite().all():
            return
        written = {
            "losses": dict(zip(self._names, map(str, losses.tolist()))),  # JSON has no NaN
            "file_names": [record.get("file_name") for record in batch],
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(written, indent=2) + "\n")
