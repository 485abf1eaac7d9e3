"""What is wrong with a configuration, in one sentence."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import yaml
from detectron2.config import CfgNode

from .choices import closest
from .errors import UserError


@contextmanager
def explained_config_errors(cfg: CfgNode) -> Iterator[None]:
    """Turn the errors of merging a file or a list into ``cfg`` into an :class:`UserError`.

    Unknown keys are told with the closest known one, wrong types with the right one.
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
    unknown = re.search(r"Non-existent (?:config )?key: (\S+)", message)
    if unknown:
        close = closest(unknown[1], _keys(cfg), count=1)
        return f"There is no configuration key {unknown[1]}; the closest is {close[0]}."
    mismatch = re.search(
        r"Type mismatch \(<class '(\w+)'> vs\. <class '(\w+)'>\) with values "
        r"\((.*) vs\. (.*)\) for config key: (\S+)",
        message,
        re.DOTALL,
    )
    if mismatch:
        expected, given, default, value, key = mismatch.groups()
        return f"{key} is {value}, of type {given}; it must be of type {expected}, like {default}."
    if "odd length" in message:
        return "The last configuration key on the command line has no value; give KEY VALUE pairs."
    return " ".join(message.split())


def _keys(node: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for name, value in node.items():
        if isinstance(value, CfgNode):
            keys += _keys(value, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys
