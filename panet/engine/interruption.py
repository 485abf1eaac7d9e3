"""Saving a checkpoint on SIGINT and SIGTERM."""

import logging
import os
import signal
import threading
from types import FrameType
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from panet.utils.device import HostCopy

logger = logging.getLogger(__name__)


class StopOnSignal(HookBase):
    """On SIGINT or SIGTERM, finishes the iteration, saves a checkpoint and ends the training.

    It raises ``KeyboardInterrupt`` or, after SIGTERM, ``SystemExit`` with status 143. With several
    processes, a signal to any of them stops all, one iteration later. A second signal, and a first
    one after the last iteration, has its default effect. A signal during the last iteration takes
    effect after detectron2's final evaluation.
    """

    def __init__(self) -> None:
        self._received = 0
        self._former: dict[int, Any] = {}
        self._received_before: HostCopy | None = None

    def before_train(self) -> None:
        if self.trainer.start_iter >= self.trainer.max_iter:
            return
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._receive)

    def after_train(self) -> None:
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # Inherited by a fork, such as a pool's worker, which SIGTERM must end.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._received = number
        self._restore_handlers()
        if comm.is_main_process():
            logger.warning("Stopping after this iteration; a second signal stops at once.")

    def after_step(self) -> None:
        iteration = self.trainer.iter
        is_last = iteration + 1 >= self.trainer.max_iter
        if is_last:
            self._restore_handlers()
        number = self._received_anywhere(is_last)
        if number == 0:
            return
        if not is_last:
            self.trainer.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        if comm.is_main_process():
            logger.warning(
                "Stopped after iteration %d and saved a checkpoint; resume with --resume.",
                iteration,
            )
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    def _received_anywhere(self, is_last: bool) -> int:
        """The signal that any process received, or 0; the same in all processes.

        It is read an iteration late, so as not to wait for GPUs; at the last iteration also the
        current one is read.
        """
        if comm.get_world_size() == 1:
            return self._received
        device = next(self.trainer.model.parameters()).device
        received = torch.full((), self._received, device=device)
        torch.distributed.all_reduce(received, torch.distributed.ReduceOp.MAX)
        before, self._received_before = self._received_before, HostCopy(received)
        number = 0 if before is None else int(before.read())
        return int(self._received_before.read()) if is_last and number == 0 else number
