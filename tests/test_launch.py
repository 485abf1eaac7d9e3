"""How the processes of a program end."""

import atexit
from pathlib import Path

from detectron2.utils import comm
from torch import distributed

from panet.launch import launch


def tell_at_exit(folder: Path, name: str) -> None:
    state = folder / f"{name}_{comm.get_rank()}"
    atexit.register(lambda: state.write_text(f"connected: {distributed.is_initialized()}"))


def test_processes_leave_their_group(tmp_path: Path) -> None:
    launch(tell_at_exit, 2, dist_url="auto", args=(tmp_path, "process"))
    states = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert states == {f"process_{rank}": "connected: False" for rank in (0, 1)}


def test_one_process_is_this_one() -> None:
    called: list[str] = []
    launch(called.append, 1, args=("here",))
    assert called == ["here"]
