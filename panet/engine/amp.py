"""Mixed precision without a GPU, and in bfloat16."""

import time

import torch
from detectron2.engine import SimpleTrainer


class BFloat16Trainer(SimpleTrainer):
    """Training steps whose forward pass runs under bfloat16 autocast, on the CPU or on CUDA.

    bfloat16 has the range of float32, so that, unlike detectron2's ``AMPTrainer``, it needs no
    scaling of the loss.
    """

    def run_step(self) -> None:
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, torch.bfloat16):
            losses = self.model(data)
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        self.after_backward()
        self._write_metrics(losses, data_time)
        self.optimizer.step()
