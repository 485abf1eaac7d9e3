"""Read pickled data without executing code from the file.

A pickle names functions, and Python's unpickler imports and calls all of them. The unpickler below
accepts only numpy data and a few containers. It does not call numpy's own constructors either,
because with a crafted dtype they interpret bytes of the file as memory addresses.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.utils.file_io import PathManager

from .errors import UserError

Constructors = Mapping[tuple[str, str], Callable[..., Any]]

# Booleans, numbers and strings; no objects, no structured dtypes.
_ALLOWED_KINDS = "biufcSU"


class _DType:
    """Placeholder for a ``numpy.dtype`` during reading."""

    def __init__(self, name: str, *_flags: bool) -> None:
        self.value = np.dtype(str(name))
        if self.value.kind not in _ALLOWED_KINDS:
            raise pickle.UnpicklingError(f"it holds an array of {self.value}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.value = self.value.newbyteorder(state[1])


class _Array:
    """Placeholder for a ``numpy.ndarray`` during reading."""

    value: npt.NDArray[Any]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, is_fortran, data = state
        self.value = _array_from(_to_bytes(data), dtype, shape, "F" if is_fortran else "C").value


def _to_bytes(data: bytes | str) -> bytes:
    """Recover the bytes of Python 2 strings, which are read as latin1 text."""
    return data.encode("latin1") if isinstance(data, str) else data


def _array_from(
    data: bytes | bytearray,
    dtype: _DType,
    shape: tuple[int, ...],
    order: Any = "C",
    axes: tuple[int, ...] | None = None,
) -> _Array:
    array = _Array()
    # A bytearray makes the array writable.
    flat = np.frombuffer(bytearray(data), dtype.value)
    if axes is None:
        array.value = flat.reshape(shape, order=order)
    else:  # order "K": a permutation of the axes of a contiguous array
        array.value = flat.reshape(shape).transpose(axes)
    return array


def _scalar(dtype: _DType, data: bytes | str) -> Any:
    return np.frombuffer(_to_bytes(data), dtype.value)[0]


_CONSTRUCTORS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _DType,
    # pickle itself only writes latin1.
    ("_codecs", "encode"): lambda text, _encoding: _to_bytes(text),
    ("collections", "OrderedDict"): OrderedDict,
}
for _type in (bytes, bytearray, complex, frozenset, set):
    for _module in ("builtins", "__builtin__"):
        _CONSTRUCTORS[_module, _type.__name__] = _type
# numpy 2 renamed its modules; a file contains the names of the version that wrote it.
for _core in ("numpy.core", "numpy._core"):
    _CONSTRUCTORS[f"{_core}.multiarray", "_reconstruct"] = lambda *_arguments: _Array()
    _CONSTRUCTORS[f"{_core}.multiarray", "scalar"] = _scalar
    _CONSTRUCTORS[f"{_core}.numeric", "_frombuffer"] = _array_from


class _DataUnpickler(pickle.Unpickler):
    def __init__(self, file: Any, constructors: Constructors) -> None:
        super().__init__(file, encoding="latin1")
        self.constructors = constructors

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return None  # only an argument of _reconstruct, never called
        if (module, name) not in self.constructors:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which could run code")
        constructor = self.constructors[module, name]
        # A new function each time: pickles can set attributes of what they get, e.g. __defaults__.
        return lambda *arguments: constructor(*arguments)


def _replace_placeholders(value: Any) -> Any:
    if isinstance(value, _Array | _DType):
        return value.value
    if isinstance(value, dict):
        return type(value)((key, _replace_placeholders(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value)(map(_replace_placeholders, value))
    return value


def load_pickle(path: str, constructors: Constructors | None = None) -> Any:
    """Read a pickle of numpy arrays, numbers, strings and plain containers.

    Supports all pickle protocols, files of Python 2 and files of all numpy versions.

    Args:
        path: path, or URL supported by detectron2's ``PathManager``.
        constructors: functions for further globals that the file may name, by module and name.
            They must be safe to call with any arguments.

    Raises:
        UserError: if the file does not exist, is damaged, or names any other global.
    """
    try:
        with PathManager.open(path, "rb") as file:
            unpickler = _DataUnpickler(file, {**_CONSTRUCTORS, **(constructors or {})})
            return _replace_placeholders(unpickler.load())
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except Exception as error:  # damaged files can raise almost any error
        raise UserError(
            f"{path} cannot be read as pickled arrays and plain containers: {error}."
        ) from error
