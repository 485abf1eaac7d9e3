"""What there is to know about a system whose checkpoints are converted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from panet.utils.errors import UserError

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """A system that trains the same networks under other names.

    Attributes:
        name: as on the command line.
        modules: the modules of its model that have parameters, and this project's names of them.
        recognize: takes a checkpoint's tensors and returns the configuration of this project that
            describes their model: a name of the model zoo, with keys and values in turn. Raises
            ``UserError`` if there is none, saying what kind of model it is instead.
        adapt: changes tensors, already renamed, in place to what they must be here, and returns
            for each of those that it dropped something of, by name, what that was.
    """

    name: str
    modules: Mapping[str, str]
    recognize: Callable[[Mapping[str, Tensor]], tuple[str, list[str]]]
    adapt: Callable[[Tensors], dict[str, str]]

    def rename(self, name: str) -> str | None:
        """This project's name of a tensor; None if nothing here corresponds to it."""
        return rename_tensor(name, self.modules)

    def original_name(self, name: str) -> str | None:
        """The system's name of one of this project's tensors; None if nothing corresponds to it."""
        return rename_tensor(name, {target: module for module, target in self.modules.items()})


def rename_tensor(name: str, modules: Mapping[str, str]) -> str | None:
    """The name of a tensor after its module was renamed; None if ``modules`` lacks the module."""
    module, _, parameter = name.rpartition(".")
    renamed = modules.get(module)
    return None if renamed is None else f"{renamed}.{parameter}"


def has_module(tensors: Mapping[str, Tensor], module: str) -> bool:
    """Whether some tensor belongs to a module, or to one in it."""
    return any(name.startswith(f"{module}.") for name in tensors)


def refuse(wrong: Mapping[str, bool]) -> None:
    """Raise what is wrong with a checkpoint.

    Args:
        wrong: what it may have, as the end of "it has ...", and whether that is so.

    Raises:
        UserError: with the first that is so.
    """
    for what, is_so in wrong.items():
        if is_so:
            raise UserError(f"it has {what}.")


def model_options(
    depth: int, scores: Tensor | None, deltas: Tensor | None, agnostic_rows: int
) -> list[str]:
    """Keys and values for what a checkpoint's sizes say, where it is not detectron2's default.

    Args:
        depth: of the ResNet.
        scores: bias of the classifier, one for each class and the background; None if absent.
        deltas: bias of the box regressor; None if absent.
        agnostic_rows: how many of these a class-agnostic regressor has.
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
