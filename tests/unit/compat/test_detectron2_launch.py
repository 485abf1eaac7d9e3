"""How the processes of a program end, and whether detectron2 still needs help with that."""

import atexit
import sys
from pathlib import Path

import pytest
from detectron2.utils import comm
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from panet.compat import detectron2_launch
from panet.compat.detectron2_launch import launch


def connected_threads() -> int:
    return sum("gloo" in file.read_text() for file in Path("/proc/self/task").glob("*/comm"))


def tell_of_threads(folder: Path) -> None:
    comm.all_gather("something")
    model = DistributedDataParallel(nn.Linear(2, 2))
    model.itself = [model]  # type: ignore[assignment]  # a cycle, as a trainer and its hooks are
    state = folder / f"process_{comm.get_rank()}"
    during = connected_threads()
    atexit.register(lambda: state.write_text(f"{during > 0}, then {connected_threads() > 0}"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("launch", "state"),
    [
        (launch, "True, then False"),
        # Or panet.compat.detectron2_launch is no longer needed.
        (detectron2_launch.detectron2_launch, "True, then True"),
    ],
)
@pytest.mark.slow
def test_no_connection_outlives_the_work(launch: object, state: str, tmp_path: Path) -> None:
    assert callable(launch)
    launch(tell_of_threads, 2, dist_url="auto", args=(tmp_path,))
    states = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert states == {f"process_{rank}": state for rank in (0, 1)}


def test_comm_holds_on_to_groups_that_were_left() -> None:
    """Or its names need not be touched."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    comm.create_local_process_group(1)
    comm._get_global_gloo_group()
    try:
        distributed.destroy_process_group()
        assert comm.get_local_process_group() is not None
        assert comm._get_global_gloo_group.cache_info().currsize == 1
    finally:
        comm._LOCAL_PROCESS_GROUP = None
        comm._get_global_gloo_group.cache_clear()
        comm.create_local_process_group.cache_clear()


def test_one_process_is_this_one() -> None:
    called: list[str] = []
    launch(called.append, 1, args=("here",))
    assert called == ["here"]
