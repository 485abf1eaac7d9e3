"""What there is to know about a system whose checkpoints are converted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """A system that trains the same networks under other names.

    Attributes:
        name: as on the command line.
        modules: the modules of its model that have parameters, and this project's names of them.
        recognize: takes a checkpoint's tensors and returns the configuration of this project that
            describes their model: a name of the model zoo, with keys and values in turn. Raises
            ``InputError`` if there is none, saying what kind of model it is instead.
        adapt: changes tensors, already renamed, in place to what they must be here, and returns
            for each of those that it dropped something of, by name, what that was.
    """

    name: str
    modules: Mapping[str, str]
    recognize: Callable[[Mapping[str, Tensor]], tuple[str, list[str]]]
    adapt: Callable[[Tensors], dict[str, str]]

    def rename(self, name: str) -> str | None:
        """This project's name of a tensor; None if nothing here corresponds to it."""
        return _rename(name, self.modules)

    def original_name(self, name: str) -> str | None:
        """The system's name of one of this project's tensors; None if nothing corresponds to it."""
        return _rename(name, {target: module for module, target in self.modules.items()})


def _rename(name: str, modules: Mapping[str, str]) -> str | None:
    module, _, parameter = name.rpartition(".")
    renamed = modules.get(module)
    return None if renamed is None else f"{renamed}.{parameter}"
