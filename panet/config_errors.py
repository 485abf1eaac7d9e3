"""One-sentence messages for configuration errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import yaml
from detectron2.config import CfgNode

from .utils.choices import closest
from .utils.errors import UserError


@contextmanager
def explained_config_errors(cfg: CfgNode) -> Iterator[None]:
    """Convert errors from merging a file or a list into ``cfg`` to :class:`UserError`.

    For an unknown key, the message names the closest known key; for a wrong type, the right type.
    """
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{mark.name}, line {mark.line + 1}" if mark is not None else "A configuration file"
        raise UserError(f"{where} is not valid YAML: {error.problem}.") from error
    except OSError as error:
        raise UserError(
            f"The configuration file {error.filename} cannot be read: {error.strerror}."
        ) from error
    except (KeyError, ValueError, AssertionError) as error:
        raise UserError(_explain(str(error.args[0]) if error.args else "", cfg)) from error


def _explain(message: str, cfg: CfgNode) -> str:
    if unknown := re.search(r"Non-existent (?:config )?key: (\S+)", message):
        close = closest(unknown[1], _keys(cfg), count=1)
        return f"There is no configuration key {unknown[1]}; the closest is {close[0]}."
    if mismatch := re.search(
        r"Type mismatch \(<class '[\w.]*?(\w+)'> vs\. <class '[\w.]*?(\w+)'>\) with values "
        r"\((.*) vs\. (.*)\) for config key: (\S+)",
        message,
        re.DOTALL,
    ):
        expected, given, default, value, key = (
            " ".join(group.split()) for group in mismatch.groups()
        )
        return f"{key} is {value}, of type {given}; it must be of type {expected}, like {default}."
    if "odd length" in message:
        return "The last configuration key on the command line has no value; give KEY VALUE pairs."
    return " ".join(message.split())


def _keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
