"""Replace modules of a network."""

from collections.abc import Callable
from typing import TypeVar

import torch
from detectron2.layers import Conv2d
from torch import nn

Module = TypeVar("Module", bound=nn.Module)
Convolution = TypeVar("Convolution", bound=Conv2d)


def replace_modules(root: nn.Module, build: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """Replace the modules of a network for which ``build`` returns another module.

    A shared module is replaced by the same new module everywhere: under every name it is registered
    by, and in plain lists and tuples of modules, as in detectron2's FPN. The new module takes over
    the hooks and the training mode.

    Args:
        root: network, changed in place.
        build: called once for every module, children before parents. Returns the replacement, or
            None to keep the module. To keep ``state_dict`` keys unchanged, the replacement must
            have the same names of parameters, buffers and children.

    Returns:
        ``root``, or its replacement.
    """
    replacements: dict[nn.Module, nn.Module] = {}
    visited: set[nn.Module] = set()
    for name, module in reversed(list(root.named_modules(remove_duplicate=False))):
        if module not in visited:
            visited.add(module)
            replacement = build(module)
            if replacement is not None:
                replacements[module] = _take_over(replacement, module)
        if module in replacements and name:
            root.set_submodule(name, replacements[module])
    root = replacements.get(root, root)
    for module in root.modules():
        _replace_in_lists(module, replacements)
    return root


def _take_over(replacement: nn.Module, module: nn.Module) -> nn.Module:
    replacement.training = module.training
    for name, value in vars(module).items():
        if "_hook" in name:
            # Share the same dicts, so that existing handles can still remove their hooks.
            vars(replacement)[name] = value
    return replacement


def _replace_in_lists(module: nn.Module, replacements: dict[nn.Module, nn.Module]) -> None:
    for name, value in list(vars(module).items()):
        if not isinstance(value, list | tuple):
            continue
        items = [replacements.get(x, x) if isinstance(x, nn.Module) else x for x in value]
        if all(new is old for new, old in zip(items, value)):
            continue
        if isinstance(value, list):
            value[:] = items
        else:
            setattr(module, name, tuple(items))


def share_state(module: Module, source: nn.Module) -> Module:
    """Make ``module`` use the parameters and buffers of ``source``, excluding child modules.

    Args:
        module: module with parameters and buffers of the same names.
        source: module that owns the tensors; it keeps using them.

    Returns:
        ``module``.
    """
    for name, parameter in source.named_parameters(recurse=False, remove_duplicate=False):
        setattr(module, name, parameter)
    for name, buffer in source.named_buffers(recurse=False, remove_duplicate=False):
        setattr(module, name, buffer)
    return module


def convert_convolution(conv: Conv2d, kind: type[Convolution]) -> Convolution:
    """Convert a convolution to another class, sharing its parameters, norm and activation.

    Args:
        conv: convolution to convert; it stays usable.
        kind: class with the constructor arguments of :class:`detectron2.layers.Conv2d`.
    """
    with torch.device("meta"):  # allocates nothing and consumes no random numbers
        converted = kind(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
            norm=conv.norm,
            activation=conv.activation,
        )
    return share_state(converted, conv)
