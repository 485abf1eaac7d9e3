"""How the processes of a program end."""

import atexit
import sys
from pathlib import Path

import pytest
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from panet.utils.launch import launch


def connected_threads() -> int:
    return sum("gloo" in file.read_text() for file in Path("/proc/self/task").glob("*/comm"))


def tell_of_threads(folder: Path) -> None:
    comm.all_gather("something")
    model = DistributedDataParallel(nn.Linear(2, 2))
    model.itself = [model]  # type: ignore[assignment]  # a cycle, as a trainer and its hooks are
    state = folder / f"process_{comm.get_rank()}"
    during = connected_threads()
    atexit.register(lambda: state.write_text(f"{during > 0}, then {connected_threads()}"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_connection_outlives_the_work(tmp_path: Path) -> None:
    launch(tell_of_threads, 2, dist_url="auto", args=(tmp_path,))
    states = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert states == {f"process_{rank}": "True, then 0" for rank in (0, 1)}


def test_one_process_is_this_one() -> None:
    called: list[str] = []
    launch(called.append, 1, args=("here",))
    assert called == ["here"]
