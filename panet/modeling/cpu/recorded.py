"""Whether anything but the result of the computation counts."""

import torch


def is_recorded() -> bool:
    """Whether a graph is made of what runs, by ``torch.compile`` or ``torch.jit.trace``.

    It is to consist of PyTorch's public operators then, and to hold for other sizes too.
    """
    return torch.compiler.is_compiling() or torch.jit.is_tracing()
