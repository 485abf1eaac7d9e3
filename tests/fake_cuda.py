"""Fake CUDA tensors without a GPU: they have shapes, devices and dtypes, but no data.

PyTorch's ``FakeTensorMode`` runs layers on fake tensors and raises an error if devices are mixed.
This module adds what a whole detector also needs: outputs of operators whose shape depends on the
data, a backward pass, and the dtype checks of CUDA kernels.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
import torchvision  # noqa: F401 (registers its operators)
from torch import Tensor
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.function import BackwardCFunction
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten, vision = torch.ops.aten, torch.ops.torchvision

# Shared by all contexts, because fake tensors of different modes cannot be mixed.
_FAKES = FakeTensorMode(allow_non_fake_inputs=True)

# The data of tensors with at most this many elements is kept, because they may contain sizes.
_MAX_KEPT = 16
# Maximum number of elements that meet a condition; the code under test loops over some of them.
_MAX_SELECTED = 6


@contextlib.contextmanager
def fake_cuda() -> Iterator[None]:
    """Create all new tensors as fake tensors, including those on "cuda".

    Existing tensors become fake when used, on their device. Build a model on "meta" outside of this
    context and move it to "cuda" inside, because fake parameters cannot be moved.
    """
    with _FAKES, contextlib.ExitStack() as stack:
        for owner, name, replacement in _REPLACEMENTS:
            stack.enter_context(mock.patch.object(owner, name, replacement))
        stack.enter_context(_DataDependentMode())
        yield


class _DataDependentMode(TorchDispatchMode):
    """Invents data-dependent outputs and raises the errors that only kernels raise.

    The number of elements that meet a condition depends only on the number of all elements.
    """

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        _check_dtypes(func, args, kwargs)
        if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_):
            source, indices, *rest = args
            args = (source, _to_integers(indices), *rest)
        return _DATA_DEPENDENT.get(func, func)(*args, **kwargs)


_SINGLE_DTYPE = (
    aten.addmm,
    aten.convolution,
    aten.convolution_backward,
    aten.grid_sampler_2d,
    aten.index_put,
    aten.index_put_,
    aten.mm,
    aten.native_group_norm,
    vision.deform_conv2d,
)


def _check_dtypes(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise PyTorch's errors on CUDA for mixed dtypes and missing kernels."""
    single_dtype = func.overloadpacket in _SINGLE_DTYPE
    if not single_dtype and func.namespace not in ("mkldnn", "torchvision"):
        return
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    if single_dtype and len(dtypes) > 1:
        raise RuntimeError(f"{func} needs tensors of the same dtype, not {dtypes}.")
    if not any(tensor.is_cuda for tensor in tensors):
        return
    if func.namespace == "mkldnn":
        raise NotImplementedError(f"{func} has no CUDA kernel.")
    if func.namespace == "torchvision" and torch.bfloat16 in dtypes:
        raise NotImplementedError(f"{func} has no CUDA kernel for bfloat16.")


def _count(elements: int) -> int:
    return min((elements + 1) // 2, _MAX_SELECTED)


def _nonzero(condition: Tensor) -> Tensor:
    shape = (_count(condition.numel()), condition.dim())
    return torch.empty(shape, dtype=torch.int64, device=condition.device)


def _to_integers(indices: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Replace boolean masks among ``indices`` by integer indices."""
    integers: list[Tensor | None] = []
    for index in indices:
        is_mask = index is not None and index.dtype in (torch.bool, torch.uint8)
        integers += _nonzero(index).unbind(1) if is_mask else [index]
    return integers


def _nms(boxes: Tensor, scores: Tensor, _iou: float) -> Tensor:
    if boxes.device != scores.device:
        raise RuntimeError(f"nms got boxes on {boxes.device} and scores on {scores.device}.")
    return torch.empty(_count(len(boxes)), dtype=torch.int64, device=boxes.device)


def _unique(x: Tensor, *_options: bool) -> tuple[Tensor, Tensor, Tensor]:
    values = x.new_empty(_count(x.numel()))
    return (
        values,
        torch.empty_like(x, dtype=torch.int64),
        torch.empty_like(values, dtype=torch.int64),
    )


def _bincount(x: Tensor, _weights: None = None, minlength: int = 0) -> Tensor:
    return x.new_empty(max(minlength, 1), dtype=torch.int64)


def _repeat_interleave(repeats: Tensor, *, output_size: int | None = None) -> Tensor:
    return repeats.new_empty(sum(_kept(repeats)) if output_size is None else output_size)


def _to_copy(x: Tensor, **options: Any) -> Tensor:
    """Store known data in an attribute, because fake tensors on "cuda" do not keep it."""
    copied = aten._to_copy.default(x, **options)
    copied.kept_data = _kept(x)
    return copied


def _view(func: Any, x: Tensor, *shape: Any, **options: Any) -> Tensor:
    """Keep known data in 1-D views, such as the expanded ones that repeat_interleave creates."""
    view = func(x, *shape, **options)
    data = _kept(x)
    if data and x.dim() == view.dim() == 1:
        view.kept_data = data * (len(view) // len(data))
    return view


def _kept(x: Tensor) -> Any:
    """Return the data as nested lists; None if it is unknown."""
    known = x.constant if isinstance(x, FakeTensor) else x
    if known is None:
        return getattr(x, "kept_data", None)
    if known.is_meta or known.numel() > _MAX_KEPT:
        return None
    with no_dispatch():
        return known.tolist()


def _item(x: Tensor) -> bool | int | float:
    data = _kept(x)
    if data is not None:
        return data
    return True if x.dtype == torch.bool else 1.0 if x.is_floating_point() else 1


_DATA_DEPENDENT = {
    aten._local_scalar_dense.default: _item,
    aten._to_copy.default: _to_copy,
    aten._unique2.default: _unique,
    aten.bincount.default: _bincount,
    aten.expand.default: partial(_view, aten.expand.default),
    aten.nonzero.default: _nonzero,
    aten.repeat_interleave.Tensor: _repeat_interleave,
    aten.view.default: partial(_view, aten.view.default),
    vision.nms.default: _nms,
}


def _numpy(x: Tensor) -> npt.NDArray[Any]:
    if x.is_cuda:
        raise TypeError("A CUDA tensor cannot be converted to NumPy; copy it to the CPU first.")
    return np.zeros(x.shape, str(x.dtype).removeprefix("torch."))


def _address(x: Tensor) -> int:
    return x.untyped_storage()._cdata + x.storage_offset() * x.element_size()


_torch_as_tensor = torch.as_tensor


def _as_tensor(data: Any, **options: Any) -> Tensor:
    """Convert scalar tensors in a list first: PyTorch bypasses all modes to read their values."""
    if isinstance(data, list):
        data = [item.item() if isinstance(item, Tensor) else item for item in data]
    return _torch_as_tensor(data, **options)


_REPLACEMENTS: Sequence[tuple[Any, str, Any]] = (
    # Keeps CUDA autocast enabled without a GPU.
    (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
    (torch.cuda, "is_bf16_supported", lambda: True),
    (torch, "as_tensor", _as_tensor),
    (fake_tensor, "CONSTANT_NUMEL_LIMIT", _MAX_KEPT),
    (FakeTensor, "data_ptr", _address),
    # The original copies memory, which fake tensors do not have.
    (FakeTensor, "__deepcopy__", lambda x, _memo: x.clone()),
    (FakeTensor, "numpy", _numpy),
)


@torch.no_grad()
def backward(loss: Tensor) -> None:
    """Compute ``loss.backward()`` for fake tensors; PyTorch's needs CUDA streams."""
    gradients: dict[Any, list[Tensor | None]] = {loss.grad_fn: [torch.ones_like(loss)]}
    for node in _from_outputs_to_inputs(loss.grad_fn):
        given = gradients.pop(node, None)
        if given is None:
            continue
        if hasattr(node, "variable"):
            grad = node.variable.grad
            node.variable.grad = given[0] if grad is None else grad + given[0]
            continue
        for (source, output), gradient in _differentiate(node, given):
            expected = source._input_metadata
            if gradient.device != expected[output].device:
                raise RuntimeError(f"{node} has a gradient on {gradient.device} for {source}.")
            gradient = gradient.sum_to_size(expected[output].shape).to(expected[output].dtype)
            sums = gradients.setdefault(source, [None] * len(expected))
            sums[output] = gradient if sums[output] is None else sums[output] + gradient


def _from_outputs_to_inputs(root: Any) -> list[Any]:
    """Sort the nodes of a graph topologically, starting at the root."""
    finished: dict[Any, None] = {}
    waiting = [root]
    while waiting:
        sources = (source for source, _ in waiting[-1].next_functions if source is not None)
        unfinished = next((source for source in sources if source not in finished), None)
        if unfinished is None:
            finished[waiting.pop()] = None
        else:
            waiting.append(unfinished)
    return list(reversed(finished))


def _differentiate(
    node: Any, gradients: Sequence[Tensor | None]
) -> Iterator[tuple[tuple[Any, int], Tensor]]:
    """Yield the gradients of a node's inputs, each with its source node and output number."""
    edges = node.next_functions
    if isinstance(node, BackwardCFunction):  # of a subclass of torch.autograd.Function
        given = [
            torch.zeros(output.shape, dtype=output.dtype, device=output.device) if g is None else g
            for output, g in zip(node._input_metadata, gradients)
        ]
        results = node.apply(*given)
        # All arguments have a gradient, but only tensors have an edge.
        results = results if isinstance(results, tuple) else (results,)
        results = [g for g, needed in zip(results, node.needs_input_grad) if needed]
        edges = [edge for edge in edges if edge[0] is not None]
    else:
        results = node(*gradients)
        results = results if isinstance(results, tuple) else (results,)
    for edge, gradient in zip(edges, results, strict=True):
        if edge[0] is not None and gradient is not None:
            yield edge, gradient
