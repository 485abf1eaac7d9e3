"""Description of a project whose checkpoints can be converted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from panet.utils.errors import UserError

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """A project that trains the same networks under other names.

    Attributes:
        name: name on the command line.
        network: name prefixes of the modules of its networks. Tensors with these prefixes must be
            known; all others are dropped.
        modules: its names of the modules with parameters, mapped to this project's names.
        recognize: finds the configuration of a checkpoint from its tensors. Returns a name of the
            model zoo and overrides, as alternating keys and values. Raises ``UserError`` if there
            is none, naming the difference.
        adapt: changes the renamed tensors in place where the projects differ. Returns the names of
            tensors of which something was dropped, with a description of what was dropped.
    """

    name: str
    network: tuple[str, ...]
    modules: Mapping[str, str]
    recognize: Callable[[Mapping[str, Tensor]], tuple[str, list[str]]]
    adapt: Callable[[Tensors], dict[str, str]]

    def rename(self, name: str) -> str | None:
        """Return this project's name of a tensor, or None if it has no counterpart."""
        return rename_tensor(name, self.modules)

    def original_name(self, name: str) -> str | None:
        """Return the source's name of a tensor of this project, or None if it has none."""
        return rename_tensor(name, {target: module for module, target in self.modules.items()})


def rename_tensor(name: str, modules: Mapping[str, str]) -> str | None:
    """Rename the module in a tensor's name; None if ``modules`` does not contain the module."""
    module, _, parameter = name.rpartition(".")
    renamed = modules.get(module)
    return None if renamed is None else f"{renamed}.{parameter}"


def has_module(tensors: Mapping[str, Tensor], module: str) -> bool:
    """Whether any tensor belongs to a module or its submodules."""
    return any(name.startswith(f"{module}.") for name in tensors)


def refuse(defects: Mapping[str, bool]) -> None:
    """Raise an error for the first defect that a checkpoint has.

    Args:
        defects: description of each defect, as the end of the sentence "it has ...", and whether
            the checkpoint has it.

    Raises:
        UserError: if it has any defect.
    """
    for defect, present in defects.items():
        if present:
            raise UserError(f"it has {defect}.")


def to_options(section: str, values: Mapping[str, object]) -> list[str]:
    """Return the values of a section of the configuration as alternating keys and values."""
    return [text for key, value in values.items() for text in (f"{section}.{key}", str(value))]


def model_options(
    depth: int, scores: Tensor | None, deltas: Tensor | None, agnostic_rows: int
) -> list[str]:
    """Return keys and values for sizes of a checkpoint that differ from detectron2's defaults.

    Args:
        depth: depth of the ResNet.
        scores: bias of the classifier, (classes + 1,); None if absent.
        deltas: bias of the box regressor; None if absent.
        agnostic_rows: length of ``deltas`` in a class-agnostic regressor.
    """
    options = [] if depth == 50 else ["MODEL.RESNETS.DEPTH", str(depth)]
    if scores is None:
        return options
    num_classes = len(scores) - 1
    if num_classes != 80:
        options += ["MODEL.ROI_HEADS.NUM_CLASSES", str(num_classes)]
    if deltas is not None and len(deltas) == agnostic_rows and num_classes > 1:
        options += ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"]
    return options
