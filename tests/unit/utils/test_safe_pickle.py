"""Pickles are read as data: what the standard reader gives, and nothing that could run code."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panet.utils.errors import UserError
from panet.utils.safe_pickle import _array_from, load_pickle

DATA = OrderedDict(
    ids=[7, "aachen_000000"],
    float32=np.arange(12, dtype=np.float32).reshape(3, 4),
    fortran=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    transposed=np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
    big_endian=np.arange(5, dtype=">i4"),
    empty=np.empty((0, 4), np.float32),
    text=np.array(["ab", "c"]),
    truth=np.array([True, False]),
    scalar=np.float64(0.25),
    integer=np.int64(3),
    dtype=np.dtype("float32"),
    containers=(b"\xff\x00", {1, 2}, frozenset({3}), bytearray(b"x"), 1j, None, True),
)


def written(folder: Path, content: bytes) -> str:
    path = folder / "data.pkl"
    path.write_bytes(content)
    return str(path)


def assert_same(actual: Any, expected: Any) -> None:
    assert type(actual) is type(expected)
    if isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(actual, expected)
        assert actual.dtype == expected.dtype
        assert actual.flags.writeable
    elif isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key in expected:
            assert_same(actual[key], expected[key])
    else:
        assert actual == expected


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("core", [b"numpy._core", b"numpy.core"])
def test_reads_what_the_standard_reader_reads(tmp_path: Path, protocol: int, core: bytes) -> None:
    content = pickle.dumps(DATA, protocol)
    if protocol < 4:  # later ones write the length of the name too
        content = content.replace(b"numpy._core", core)
    assert_same(load_pickle(written(tmp_path, content)), DATA)


def test_reads_arrays_of_python_2(tmp_path: Path) -> None:
    content = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I2\ntcnumpy\ndtype\n(S'<u2'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
        b"I00\nS'\\x01\\x00\\xff\\x00'\ntb."
    )
    assert_same(load_pickle(written(tmp_path, content)), np.array([1, 255], np.uint16))


class RunsCode:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (RunsCode(os.mkdir, "ran"), ".*mkdir"),
        (RunsCode(eval, "__import__('os').mkdir('ran')"), ".*builtin.*eval"),
        (RunsCode(getattr, "", "format"), ".*builtin.*getattr"),
        ({"boxes": [RunsCode(np.load, "x", None, True)]}, "numpy.load"),
        (np.ma.masked_array([1.0]), "numpy.ma"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_refuses_and_names_everything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any, named: str, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, pickle.dumps(value, protocol))
    with pytest.raises(UserError, match=rf"data.pkl .*names {named}"):
        load_pickle(path)
    assert not Path("ran").exists()


def forged(dtype: bytes) -> bytes:
    """An array whose eight bytes an object's dtype would take for an address."""
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        b"(K\x01K\x01\x85" + dtype + b"\x89C\x08AAAAAAAAtb."
    )


OBJECT = b"cnumpy\ndtype\nX\x01\x00\x00\x00O\x89\x88\x87R"
# {"a": (object, 0)} as the fields of eight plain bytes, with none of the flags of an object.
HIDDEN_OBJECT = (
    b"cnumpy\ndtype\nX\x02\x00\x00\x00V8\x89\x88\x87R(K\x03X\x01\x00\x00\x00|N"
    b"X\x01\x00\x00\x00a\x85}X\x01\x00\x00\x00a" + OBJECT + b"K\x00\x86sK\x08K\x01K\x00tb"
)


@pytest.mark.parametrize("dtype", [OBJECT, HIDDEN_OBJECT])
def test_bytes_are_never_taken_for_objects(tmp_path: Path, dtype: bytes) -> None:
    with pytest.raises(UserError, match=r"data.pkl .*an array of"):
        load_pickle(written(tmp_path, forged(dtype)))


def test_the_forged_array_is_one_that_numpy_would_build() -> None:
    array = pickle.loads(forged(HIDDEN_OBJECT))
    assert array.dtype["a"].hasobject


def test_files_cannot_change_the_reader(tmp_path: Path) -> None:
    # Sets __defaults__ of numpy's _frombuffer, whose default order of the axes is "C".
    content = (
        b"\x80\x02cnumpy.core.numeric\n_frombuffer\n"
        b"N}X\x0c\x00\x00\x00__defaults__X\x01\x00\x00\x00FN\x86s\x86b."
    )
    before = _array_from.__defaults__
    load_pickle(written(tmp_path, content))
    assert _array_from.__defaults__ == before


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps(DATA)[:-30]])
def test_damaged_and_missing_files_are_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match=r"data.pkl cannot be read"):
        load_pickle(written(tmp_path, content))
    with pytest.raises(UserError, match=r"none.pkl does not exist"):
        load_pickle(str(tmp_path / "none.pkl"))


def test_further_constructors_may_be_allowed(tmp_path: Path) -> None:
    path = written(tmp_path, pickle.dumps(Path("a")))
    assert load_pickle(path, {("pathlib", "PosixPath"): str}) == "a"
