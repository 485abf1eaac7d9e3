"""Tensors on CUDA without a GPU: they have shapes, devices and dtypes, but no contents.

PyTorch's ``FakeTensorMode`` runs layers on such tensors, and raises an error where devices mix. To
run a whole detector it lacks results for what depends on contents, a backward pass, and the checks
of dtypes that are left to CUDA's kernels.
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

# One for all, as tensors of one mode cannot be used in another.
_FAKES = FakeTensorMode(allow_non_fake_inputs=True)

# Sizes come from tensors of a few numbers, whose contents are kept.
_MOST_KEPT = 16
# Of those that meet a condition; some of them are gone through one by one.
_MOST_ROWS = 6


@contextlib.contextmanager
def fake_cuda() -> Iterator[None]:
    """Make all new tensors fake ones, on "cuda" where that is asked for.

    Other tensors become fake where they are used, on the device that they are on. A model is built
    on "meta" before, and then moved to "cuda", as fake parameters cannot be moved.
    """
    with _FAKES, contextlib.ExitStack() as stack:
        for owner, name, stand_in in _STAND_INS:
            stack.enter_context(mock.patch.object(owner, name, stand_in))
        stack.enter_context(_Contents())
        yield


class _Contents(TorchDispatchMode):
    """Invents what depends on contents, and refuses what only kernels refuse.

    A condition on as many elements is always met by as many of them.
    """

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        _refuse(func, args, kwargs)
        if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_):
            source, indices, *rest = args
            args = (source, _without_conditions(indices), *rest)
        return _INVENTED.get(func, func)(*args, **kwargs)


_OF_ONE_DTYPE = (
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


def _refuse(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise what PyTorch raises on CUDA, for dtypes that mix and for kernels that it lacks."""
    of_one_dtype = func.overloadpacket in _OF_ONE_DTYPE
    if not of_one_dtype and func.namespace not in ("mkldnn", "torchvision"):
        return
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    if of_one_dtype and len(dtypes) > 1:
        raise RuntimeError(f"{func} takes one dtype, not {dtypes}.")
    if not any(tensor.is_cuda for tensor in tensors):
        return
    if func.namespace == "mkldnn":
        raise NotImplementedError(f"{func} is for the CPU.")
    if func.namespace == "torchvision" and torch.bfloat16 in dtypes:
        raise NotImplementedError(f"{func} is not there for bfloat16 on CUDA.")


def _count(elements: int) -> int:
    return min((elements + 1) // 2, _MOST_ROWS)


def _nonzero(condition: Tensor) -> Tensor:
    shape = (_count(condition.numel()), condition.dim())
    return torch.empty(shape, dtype=torch.int64, device=condition.device)


def _without_conditions(indices: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Integers that index as conditions among ``indices`` do."""
    integers: list[Tensor | None] = []
    for index in indices:
        is_condition = index is not None and index.dtype in (torch.bool, torch.uint8)
        integers += _nonzero(index).unbind(1) if is_condition else [index]
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
    """On "cuda" a fake tensor keeps no contents, so that they are written down beside it."""
    copied = aten._to_copy.default(x, **options)
    copied.contents = _kept(x)
    return copied


def _view(func: Any, x: Tensor, *shape: Any, **options: Any) -> Tensor:
    """A view, as repeat_interleave makes some of its only number."""
    view = func(x, *shape, **options)
    contents = _kept(x)
    if contents and x.dim() == view.dim() == 1:
        view.contents = contents * (len(view) // len(contents))
    return view


def _kept(x: Tensor) -> Any:
    """The contents as lists of numbers; None if they are unknown."""
    known = x.constant if isinstance(x, FakeTensor) else x
    if known is None:
        return getattr(x, "contents", None)
    if known.is_meta or known.numel() > _MOST_KEPT:
        return None
    with no_dispatch():
        return known.tolist()


def _item(x: Tensor) -> bool | int | float:
    contents = _kept(x)
    if contents is not None:
        return contents
    return True if x.dtype == torch.bool else 1.0 if x.is_floating_point() else 1


_INVENTED = {
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
        raise TypeError("A tensor on CUDA becomes no array; copy it to the CPU before.")
    return np.zeros(x.shape, str(x.dtype).removeprefix("torch."))


def _address(x: Tensor) -> int:
    return x.untyped_storage()._cdata + x.storage_offset() * x.element_size()


_plain_as_tensor = torch.as_tensor


def _as_tensor(data: Any, **options: Any) -> Tensor:
    """PyTorch's own reads scalars of a list past all modes, and so from CUDA itself."""
    if isinstance(data, list):
        data = [item.item() if isinstance(item, Tensor) else item for item in data]
    return _plain_as_tensor(data, **options)


_STAND_INS: Sequence[tuple[Any, str, Any]] = (
    # Without a GPU, autocast on it would be disabled.
    (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
    (torch.cuda, "is_bf16_supported", lambda: True),
    (torch, "as_tensor", _as_tensor),
    (fake_tensor, "CONSTANT_NUMEL_LIMIT", _MOST_KEPT),
    (FakeTensor, "data_ptr", _address),
    # PyTorch's own would copy memory that is not there.
    (FakeTensor, "__deepcopy__", lambda x, _memo: x.clone()),
    (FakeTensor, "numpy", _numpy),
)


@torch.no_grad()
def backward(loss: Tensor) -> None:
    """``loss.backward()`` for fake tensors: PyTorch's own asks CUDA for its streams."""
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
    """The nodes of a graph, every one after those that it gets gradients from."""
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
    """The gradients by the inputs of a node, each with the node and output that it is of."""
    edges = node.next_functions
    if isinstance(node, BackwardCFunction):  # which a subclass of torch.autograd.Function has
        given = [
            torch.zeros(output.shape, dtype=output.dtype, device=output.device) if g is None else g
            for output, g in zip(node._input_metadata, gradients)
        ]
        found = node.apply(*given)
        # There is a gradient for every argument, but an edge for tensors only.
        found = found if isinstance(found, tuple) else (found,)
        found = [g for g, needed in zip(found, node.needs_input_grad) if needed]
        edges = [edge for edge in edges if edge[0] is not None]
    else:
        found = node(*gradients)
        found = found if isinstance(found, tuple) else (found,)
    for edge, gradient in zip(edges, found, strict=True):
        if edge[0] is not None and gradient is not None:
            yield edge, gradient
