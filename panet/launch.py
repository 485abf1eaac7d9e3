"""Running a function in several processes."""

from collections.abc import Callable
from typing import Any

from detectron2.engine import launch as detectron2_launch
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
    """detectron2's ``launch``, whose processes also leave their group before they end.

    A process that ends first while the group is still connected, as those do that wait for no
    one while the main process evaluates, can be aborted by its own connections' threads.

    Args:
        main: may be pickled, and is called with ``args`` in each process.
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
        distributed.destroy_process_group()
