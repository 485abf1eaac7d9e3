"""Mixed precision training in bfloat16."""

import time

import torch
from detectron2.engine import SimpleTrainer


class BFloat16Trainer(SimpleTrainer):
    """Training steps under bfloat16 autocast, on the CPU or CUDA.

    bfloat16 has the range of float32, so the loss needs no scaling, unlike with ``AMPTrainer``.
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
