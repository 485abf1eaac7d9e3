"""Files are there as a whole or not at all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from panet.utils.atomic import open_atomically


def test_the_new_file_replaces_the_old_one_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with open_atomically(path, "w") as file:
        file.write("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_after_an_error_the_old_file_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(TypeError), open_atomically(path, "w") as file:
        file.write(b"new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_told_with_the_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.with_name("file.unfinished").symlink_to("/dev/full")
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*file'"),
        open_atomically(path) as f,
    ):
        f.write(b"1" * 100_000)
    assert not path.exists()


def test_text_is_utf8_in_every_locale(tmp_path: Path) -> None:
    path = tmp_path / "file"
    program = (
        "import locale, sys\n"
        "from panet.utils.atomic import open_atomically\n"
        "assert locale.getpreferredencoding() != 'UTF-8'\n"
        "with open_atomically(sys.argv[1], 'w', errors='surrogateescape') as file:\n"
        "    file.write('\\u00e4\\udcff')\n"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", program, path], env=environment, check=True)
    assert path.read_bytes() == "\u00e4".encode() + b"\xff"
    with open_atomically(path, "w", encoding="latin-1") as file:
        file.write("\u00e4")
    assert path.read_bytes() == b"\xe4"


@pytest.mark.slow
def test_killed_while_writing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    program = (
        "import sys, time\n"
        "from panet.utils.atomic import open_atomically\n"
        "with open_atomically(sys.argv[1], 'w') as file:\n"
        "    file.write('new'); file.flush(); print('writing', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        os.kill(process.pid, signal.SIGKILL)
    assert path.read_text() == "old"
