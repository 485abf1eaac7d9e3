"""Running a configuration on what the machine has."""

import ctypes
import logging

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor

from .cpu import has_fast_bfloat16
from .errors import UserError

logger = logging.getLogger(__name__)


def fall_back_to_cpu(cfg: CfgNode) -> None:
    """Set ``MODEL.DEVICE`` to "cpu", with a warning, if it asks for CUDA and there is none."""
    cfg.MODEL.DEVICE = available_device("MODEL.DEVICE", cfg.MODEL.DEVICE)


def available_device(key: str, device: str) -> str:
    """``device``, or "cpu", with a warning, if it is CUDA and there is none.

    Args:
        key: of the configuration, which asks for ``device``.
        device: as :class:`torch.device` takes it.
    """
    if torch.device(device).type != "cuda" or torch.cuda.is_available():
        return device
    if comm.is_main_process():
        logger.warning("CUDA is not available: %s %s becomes cpu.", key, device)
    return "cpu"


def usable_precision(key: str, dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """``dtype``, or float32, with a warning, if the CPU has no instructions for bfloat16.

    Args:
        key: of the configuration, which asks for ``dtype``.
        dtype: what to compute in.
        device: where.
    """
    if dtype != torch.bfloat16 or device.type != "cpu" or has_fast_bfloat16():
        return dtype
    if comm.is_main_process():
        logger.warning(
            "This CPU has no instructions for bfloat16: %s bfloat16 becomes float32.", key
        )
    return torch.float32


class HostCopy:
    """A tensor's values on the host, copied as soon as the device has computed them.

    To make one does not wait for the device; to read it waits until the copy is there, and not for
    what the device was given afterwards.
    """

    def __init__(self, tensor: Tensor) -> None:
        """
        Args:
            tensor: may be overwritten from now on.
        """
        self._event: torch.cuda.Event | None = None
        if not tensor.is_cuda:
            self._copy = tensor.detach().clone()
            return
        self._copy = tensor.detach().to("cpu", non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record()

    def read(self) -> Tensor:
        """The copy, on the host."""
        if self._event is not None:
            self._event.synchronize()
        return self._copy


def replace_cuda_only_norms(cfg: CfgNode) -> None:
    """Replace "SyncBN", which needs CUDA to synchronize, by "naiveSyncBN" throughout ``cfg``.

    The two have the same parameters, so checkpoints go both ways.
    """
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            replace_cuda_only_norms(value)
        elif key == "NORM" and value == "SyncBN":
            cfg[key] = "naiveSyncBN"


def check_gpus(processes: int) -> None:
    """Check that each of ``processes`` processes can have a GPU, if the machine has any.

    Raises:
        UserError: if there are fewer.
    """
    gpus = torch.cuda.device_count()
    if 0 < gpus < processes:
        raise UserError(f"--num-gpus is {processes}, but this machine has {gpus} GPUs.")


def limit_cpu_threads(processes: int) -> None:
    """Share the machine's cores among ``processes`` processes that compute on the CPU."""
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))


# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Have the C library keep the memory of freed tensors for the next ones.

    By itself glibc returns large blocks to the system as soon as they are freed, and the system
    clears every page anew when the next one is written to. Other C libraries are left as they are.
    """
    c_library = ctypes.CDLL(None)
    if hasattr(c_library, "mallopt"):
        c_library.mallopt(_M_MMAP_MAX, 0)
        c_library.mallopt(_M_TRIM_THRESHOLD, -1)  # as an unsigned number: never
