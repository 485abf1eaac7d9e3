"""Replacing modules of a network."""

from collections.abc import Callable
from typing import TypeVar

import torch
from detectron2.layers import Conv2d
from torch import nn

Module = TypeVar("Module", bound=nn.Module)
Convolution = TypeVar("Convolution", bound=Conv2d)


def replace_modules(root: nn.Module, build: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """Replace those modules of a network that ``build`` has something else for.

    What stands in several places is replaced by one and the same module in all of them: under
    every name that it is registered by, and in the plain lists and tuples that modules keep of
    others, as detectron2's FPN does of its convolutions. A replacement takes over the hooks and
    the mode, training or evaluation.

    Args:
        root: changed in place.
        build: called with every module once, children before their parents. It returns what to
            replace the module by, with the same names of parameters, buffers and children if
            those of ``state_dict`` are to stay, or None to keep it.

    Returns:
        ``root``, or what it itself is replaced by.
    """
    replacements: dict[nn.Module, nn.Module] = {}
    built: set[nn.Module] = set()
    for name, module in reversed(list(root.named_modules(remove_duplicate=False))):
        if module not in built:
            built.add(module)
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
            # The same objects, so that who has registered a hook can still remove it.
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
    """Give a module the parameters and buffers of another, not those of its children.

    Args:
        module: has parameters and buffers of the same names.
        source: keeps them too.

    Returns:
        ``module``.
    """
    for name, parameter in source.named_parameters(recurse=False, remove_duplicate=False):
        setattr(module, name, parameter)
    for name, buffer in source.named_buffers(recurse=False, remove_duplicate=False):
        setattr(module, name, buffer)
    return module


def convert_convolution(conv: Conv2d, kind: type[Convolution]) -> Convolution:
    """A convolution of another class with the parameters, norm and activation of ``conv``.

    Args:
        conv: keeps them too.
        kind: takes the arguments of :class:`detectron2.layers.Conv2d`.
    """
    with torch.device("meta"):  # parameters that take neither memory nor random numbers
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
