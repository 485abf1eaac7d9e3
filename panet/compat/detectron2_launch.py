"""Make detectron2's ``launch`` close the connections of its processes.

Seen in sal-detectron2 0.7.2 and in detectron2 at commit 02b5c4e: the connection threads still run
while Python shuts down, which occasionally aborts a process after its work is done, and the whole
program with it. Remove this file when ``launch`` destroys the process groups and ``comm`` drops its
references to them.
"""

import gc
from collections.abc import Callable
from typing import Any

from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm
from torch import distributed


def launch(
    main: Callable[..., object],
    processes: int,
    *,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple[Any, ...] = (),
) -> None:
    """Call detectron2's ``launch``; the processes destroy their process groups before they exit.

    Args:
        main: picklable function, called as ``main(*args)`` in each process.
        processes: number of processes on this machine, one per GPU if it has any.
        num_machines, machine_rank, dist_url: see detectron2's ``launch``.
        args: arguments of ``main``.
    """
    detectron2_launch(
        _run, processes, num_machines, machine_rank, dist_url=dist_url, args=(main, args)
    )


def _run(main: Callable[..., object], args: tuple[Any, ...]) -> None:
    main(*args)
    if distributed.is_initialized():
        distributed.destroy_process_group()
        # A group's threads end when its last reference is dropped.
        comm._LOCAL_PROCESS_GROUP = None
        comm._get_global_gloo_group.cache_clear()
        gc.collect()  # a distributed model can be part of a reference cycle of trainer and hooks
