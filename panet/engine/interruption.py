"""Stopping on Ctrl-C and SIGTERM without losing what was learned."""

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
    """Finishes the iteration after SIGINT or SIGTERM, saves a checkpoint, and ends the training.

    It ends by ``KeyboardInterrupt`` or, after SIGTERM, ``SystemExit`` with status 143. In several
    processes one that got the signal stops all, an iteration later. A second signal has its usual
    effect at once, and so has the first one after the last iteration, when there is nothing to be
    lost. If it comes during the last iteration, detectron2 still evaluates before the training
    ends.
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
            # A fork has inherited this, such as a worker of a pool, which is ended by SIGTERM.
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
                "Stopped after iteration %d, which is saved; continue with --resume.",
                iteration,
            )
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    def _received_anywhere(self, is_last: bool) -> int:
        """The signal that a process got, 0 if none did; the same in all processes.

        That of the iteration before, for GPUs are still busy with this one; after the last one
        that of both.
        """
        if comm.get_world_size() == 1:
            return self._received
        device = next(self.trainer.model.parameters()).device
        received = torch.full((), self._received, device=device)
        torch.distributed.all_reduce(received, torch.distributed.ReduceOp.MAX)
        before, self._received_before = self._received_before, HostCopy(received)
        number = 0 if before is None else int(before.read())
        return int(self._received_before.read()) if is_last and number == 0 else number
