"""What the hardware of this machine supports."""

import ctypes
import logging

import torch
from detectron2.utils import comm
from torch import Tensor, distributed

from .cpu import has_fast_bfloat16
from .errors import UserError

logger = logging.getLogger(__name__)


def available_device(key: str, device: str) -> str:
    """Return ``device``, or "cpu" with a warning if it is CUDA and CUDA is not available.

    Args:
        key: configuration key of ``device``, for the warning.
        device: device string for :class:`torch.device`.
    """
    if torch.device(device).type != "cuda" or torch.cuda.is_available():
        return device
    if comm.is_main_process():
        logger.warning("CUDA is not available: %s %s becomes cpu.", key, device)
    return "cpu"


def usable_precision(key: str, dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return ``dtype``, or float32 with a warning if the CPU does not support bfloat16.

    Args:
        key: configuration key of ``dtype``, for the warning.
        dtype: requested precision.
        device: device to compute on.
    """
    if dtype != torch.bfloat16 or device.type != "cpu" or has_fast_bfloat16():
        return dtype
    if comm.is_main_process():
        logger.warning(
            "This CPU has no instructions for bfloat16: %s bfloat16 becomes float32.", key
        )
    return torch.float32


class HostCopy:
    """A copy of a tensor to host memory, asynchronous on CUDA.

    There, creating it does not block. :meth:`read` waits for the copy, but not for work that was
    queued on the device afterwards.
    """

    def __init__(self, tensor: Tensor) -> None:
        """
        Args:
            tensor: tensor to copy; it may be overwritten as soon as this returns.
        """
        # Without an event of CUDA, nothing could wait for an asynchronous copy.
        self._copy = tensor.detach().to("cpu", non_blocking=tensor.is_cuda, copy=True)
        self._event = torch.cuda.Event() if tensor.is_cuda else None
        if self._event is not None:
            self._event.record()

    def read(self) -> Tensor:
        """Wait for the copy and return it, on the CPU."""
        if self._event is not None:
            self._event.synchronize()
        return self._copy


def check_gpus(processes: int) -> None:
    """Check that there is a GPU for each process, if the machine has any GPUs.

    Raises:
        UserError: if there are fewer GPUs than processes.
    """
    gpus = torch.cuda.device_count()
    if 0 < gpus < processes:
        raise UserError(f"--num-gpus is {processes}, but this machine has {gpus} GPUs.")


def check_process_group(device: str) -> None:
    """Check that the processes of a training can exchange tensors on ``device``, if there are any.

    detectron2's ``launch`` connects them with NCCL if the machine has GPUs.

    Raises:
        UserError: if they cannot.
    """
    if comm.get_world_size() == 1 or torch.device(device).type == "cuda":
        return
    if distributed.get_backend() == "nccl":
        raise UserError(
            f"Several processes cannot train on the device {device} of a machine with GPUs; set "
            "--num-gpus to 1, or hide the GPUs by CUDA_VISIBLE_DEVICES=''."
        )


def limit_cpu_threads(processes: int) -> None:
    """Divide PyTorch's CPU threads among ``processes`` processes; each gets at least one."""
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))


# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for reuse instead of returning it to the system.

    By default glibc returns large blocks as soon as they are freed, and the system clears every
    page again on the next allocation. Does nothing with other C libraries.
    """
    c_library = ctypes.CDLL(None)
    if hasattr(c_library, "mallopt"):
        c_library.mallopt(_M_MMAP_MAX, 0)  # never allocate by mmap
        c_library.mallopt(_M_TRIM_THRESHOLD, -1)  # maximum as an unsigned number: never trim
