"""detectron2's ``launch``, whose processes end with their connections open.

Seen in sal-detectron2 0.7.2 and in detectron2's sources, commit 02b5c4e: the threads of the
connections run on while Python shuts down, and now and then such a process is aborted with its work
done, and the program with it. This file can go once the processes leave their groups, and ``comm``
lets go of them.
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
    """detectron2's ``launch``, whose processes also leave their groups before they end.

    Args:
        main: can be pickled, and is called with ``args`` in each process.
        processes: on this machine, one a GPU if it has any.
        num_machines, machine_rank, dist_url: see detectron2's.
        args: of ``main``.
    """
    detectron2_launch(
        _run, processes, num_machines, machine_rank, dist_url=dist_url, args=(main, args)
    )


def _run(main: Callable[..., object], args: tuple[Any, ...]) -> None:
    main(*args)
    if distributed.is_initialized():
        _disconnect()


def _disconnect() -> None:
    """Leave all groups, and let go of them: a group's threads end with its last reference."""
    distributed.destroy_process_group()
    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()
    gc.collect()  # of a distributed model within a cycle of trainer and hooks
