"""Running a function in two processes on the CPU, whether or not there are GPUs."""

from collections.abc import Callable
from pathlib import Path

from detectron2.utils import comm
from torch import distributed, multiprocessing


def run_in_two_processes(main: Callable[..., None], store: Path, *args: object) -> None:
    """Call ``main(*args)`` in two processes, which meet at the new file ``store``."""
    multiprocessing.spawn(_run, nprocs=2, args=(store, main, args))


def _run(rank: int, store: Path, main: Callable[..., None], args: tuple[object, ...]) -> None:
    distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    comm.create_local_process_group(2)
    main(*args)
    comm.synchronize()
