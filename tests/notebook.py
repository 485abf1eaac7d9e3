"""Run the cells of a notebook without Jupyter."""

import json
import subprocess
from pathlib import Path
from typing import Any


def run_notebook(file: Path, folder: Path, environment: dict[str, str]) -> list[str]:
    """Run the code cells in order and return what their shell commands print.

    Args:
        file: the notebook.
        folder: current directory of the cells; this process must be in it.
        environment: of the shell commands.
    """
    variables: dict[str, Any] = {}
    printed = []
    for cell in json.loads(file.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        if not source.startswith("!"):
            exec(compile(source, file.name, "exec"), variables)
            continue
        for command in source.replace("\\\n", " ").splitlines():
            command = command.removeprefix("!").format(**variables)
            run = subprocess.run(
                command, shell=True, cwd=folder, env=environment, capture_output=True, text=True
            )
            assert run.returncode == 0, f"{command}\n{run.stdout}{run.stderr}"
            printed.append(run.stdout + run.stderr)
    return printed
