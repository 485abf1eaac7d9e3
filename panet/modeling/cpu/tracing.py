"""Detection of graph capture."""

import torch


def is_tracing() -> bool:
    """Whether ``torch.compile`` or ``torch.jit.trace`` is capturing a graph.

    The graph must consist of PyTorch's public operators only, and be valid for other input sizes.
    """
    return torch.compiler.is_compiling() or torch.jit.is_tracing()
