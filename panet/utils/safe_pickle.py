"""Reading pickled data without running code from it.

A pickle names functions, and the standard reader imports and calls whatever it names. This one
knows numpy's, a few containers and nothing else. It does not call numpy's own either: a crafted
dtype has these take the bytes of a file for addresses in memory.
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

# Truth values, numbers and text.
_KINDS = "biufcSU"


class _DType:
    """Takes the place of a ``numpy.dtype`` while a file is read."""

    def __init__(self, name: str, *_flags: bool) -> None:
        dtype = np.dtype(str(name))
        if dtype.kind not in _KINDS:
            raise pickle.UnpicklingError(f"it holds an array of {dtype}")
        self.value = dtype

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.value = self.value.newbyteorder(state[1])


class _Array:
    """Takes the place of a ``numpy.ndarray`` while a file is read."""

    value: npt.NDArray[Any]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, is_fortran, data = state
        # Python 2 wrote text, which is read as latin1.
        data = data.encode("latin1") if isinstance(data, str) else data
        self.value = _array_from(data, dtype, shape, "F" if is_fortran else "C").value


def _array_from(
    data: bytes | bytearray, dtype: _DType, shape: tuple[int, ...], order: Any = "C"
) -> _Array:
    array = _Array()
    # Through a bytearray, so that the array can be written to.
    array.value = np.frombuffer(bytearray(data), dtype.value).reshape(shape, order=order)
    return array


def _empty_array(_kind: object, _shape: tuple[int, ...], _typecode: bytes) -> _Array:
    return _Array()


def _scalar(dtype: _DType, data: bytes | str) -> Any:
    data = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(data, dtype.value)[0]


def _encode(text: str, _encoding: str) -> bytes:
    return text.encode("latin1")  # the only encoding that pickle itself asks for


_CONSTRUCTORS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
}
for _type in (bytes, bytearray, complex, frozenset, set):
    for _module in ("builtins", "__builtin__"):
        _CONSTRUCTORS[_module, _type.__name__] = _type
# numpy 2 renamed its modules; a file keeps the names of the numpy that wrote it.
for _core in ("numpy.core", "numpy._core"):
    _CONSTRUCTORS[f"{_core}.multiarray", "_reconstruct"] = _empty_array
    _CONSTRUCTORS[f"{_core}.multiarray", "scalar"] = _scalar
    _CONSTRUCTORS[f"{_core}.numeric", "_frombuffer"] = _array_from


class _DataUnpickler(pickle.Unpickler):
    def __init__(self, file: Any, constructors: Constructors) -> None:
        super().__init__(file, encoding="latin1")
        self.constructors = constructors

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return None  # an argument of _reconstruct, never called
        if (module, name) not in self.constructors:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which could run code")
        return self.constructors[module, name]


def _with_arrays(value: Any) -> Any:
    """``value`` with numpy's arrays and dtypes where they belong."""
    if isinstance(value, _Array | _DType):
        return value.value
    if isinstance(value, dict):
        return type(value)((key, _with_arrays(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value)(map(_with_arrays, value))
    return value


def load_pickle(path: str, constructors: Constructors | None = None) -> Any:
    """Read a pickle that holds numpy arrays, numbers, text and plain containers.

    Files of every protocol, of Python 2 and of every version of numpy are read.

    Args:
        path: a path, or a URL that detectron2 knows how to open.
        constructors: by module and name, what to call for further globals that the file may
            name; they must be safe to call with any arguments.

    Raises:
        UserError: if there is no such file, if it is damaged, or if it names anything else.
    """
    try:
        with PathManager.open(path, "rb") as file:
            return _with_arrays(
                _DataUnpickler(file, {**_CONSTRUCTORS, **(constructors or {})}).load()
            )
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    # Damaged files raise almost anything.
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as pickled arrays and plain containers: {error}."
        ) from error
