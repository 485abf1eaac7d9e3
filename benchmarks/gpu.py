#!/usr/bin/env python
"""Tests and measures PANet on a GPU, in at most eight minutes.

tests      those marked "gpu"
speed      detectron2's Mask R-CNN, PANet 2fc and panet_R50_2x in bf16, fp32 and fp16: latency of
           one image, throughput of eight, a training iteration, peak memory, stages
learning   300 iterations on the embedded dataset, here and on the CPU
choices    PANet 2fc with other settings, in bf16
compiled   latency with the backbone compiled, and as a CUDA graph, in bf16

Every figure is on disk as soon as it is there. Started again, the program leaves out what it has,
and tries again what failed. It needs neither the network nor a dataset.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import torchvision
from gpu_steps import PARTS, Extent
from measure import machine
from tabulate import tabulate

from panet.utils.atomic import open_atomically
from panet.utils.errors import UserError, exit_on_user_error

GOALS = {
    "panet-2fc": {"latency": 1.0, "throughput": 1.1, "training": 1.1, "memory": 1.15},
    "panet-r50-2x": {"latency": 1.25, "throughput": 1.4, "training": 1.4, "memory": 1.3},
}
"""Ratios to detectron2's Mask R-CNN in the same precision, which these should not exceed."""


class Results:
    """The figures of a machine, in a JSON file that is complete after every step."""

    def __init__(self, file: Path, description: dict[str, Any]) -> None:
        """
        Args:
            file: to go on with, if it is there.
            description: of the machine and the versions.

        Raises:
            UserError: if the file is of another machine, or of other versions.
        """
        self.file = file
        self.content: dict[str, Any] = {"machine": description, "parts": {}}
        if file.exists():
            self.content = json.loads(file.read_text())
            if self.content["machine"] != description:
                raise UserError(
                    f"{file} is of another machine or of other versions: "
                    f"{self.content['machine']}; give another folder with --output."
                )

    def has(self, part: str, step: str) -> bool:
        """Whether a step was done, and did not fail."""
        figures = self.content["parts"].get(part, {}).get(step)
        return figures is not None and "error" not in figures

    def add(self, part: str, step: str, figures: dict[str, Any]) -> None:
        """Write what a step gave."""
        self.content["parts"].setdefault(part, {})[step] = figures
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with open_atomically(self.file, "w") as file:
            file.write(json.dumps(self.content, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("output/gpu"), metavar="DIR")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--limit", type=float, default=460.0, metavar="SECONDS", help="nothing runs longer"
    )
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, on the CPU")
    parser.add_argument("--run-part", choices=PARTS, help=argparse.SUPPRESS)
    return parser.parse_args()


@exit_on_user_error()
def main() -> None:
    """Run the parts, each in a process of its own, and report."""
    args = parse_arguments()
    if not args.dry_run and not torch.cuda.is_available():
        raise UserError("There is no GPU; --dry-run shows on a CPU that everything runs.")
    extent = Extent(args.dry_run)
    results_file = args.output / ("dry_run.json" if args.dry_run else "gpu.json")
    if args.run_part:
        run_part(args.run_part, extent, Results(results_file, describe(extent)))
        return
    Results(results_file, describe(extent))  # that it is of this machine
    deadline = time.monotonic() + args.limit
    failures = []
    for part in args.parts:
        command = [sys.executable, __file__, "--run-part", part, "--output", str(args.output)]
        try:
            # One that spoils the GPU's state does not spoil the next.
            status = run_until(deadline, [*command, *["--dry-run"] * args.dry_run])
        except subprocess.TimeoutExpired:
            print(f"{part} was stopped after {args.limit:.0f} seconds in all; start it again.")
            break
        if status != 0:
            failures.append(f"{part}: its process ended with status {status}")
    results = Results(results_file, describe(extent))
    print(report(results.content))
    failures += [
        f"{part}, {step}: {figures['error']}"
        for part, steps in results.content["parts"].items()
        for step, figures in steps.items()
        if "error" in figures
    ]
    if failures:
        raise UserError("These steps failed:\n" + "\n".join(failures))


def run_until(deadline: float, command: list[str]) -> int:
    """Run a command, and end it with all processes that it has started at the deadline.

    Args:
        deadline: by ``time.monotonic()``.
        command: a program and its arguments.

    Returns:
        Its exit status.

    Raises:
        subprocess.TimeoutExpired: if it was ended.
    """
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_part(part: str, extent: Extent, results: Results) -> None:
    """Do the steps of a part that are not done."""
    for step, measure in PARTS[part](extent):
        if results.has(part, step):
            continue
        start = time.perf_counter()
        try:
            figures = measure()
        except Exception as error:
            traceback.print_exc()
            figures = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        results.add(part, step, figures)
        print(f"{part}: {step}, {time.perf_counter() - start:.0f} s", flush=True)


def describe(extent: Extent) -> dict[str, Any]:
    """The machine and the versions."""
    cuda = extent.device.type == "cuda"
    return {
        "device": machine(extent.device),
        "driver": _driver() if cuda else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "tf32 in convolutions": torch.backends.cudnn.allow_tf32,
        "tf32 in matrix products": torch.backends.cuda.matmul.allow_tf32,
    }


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.split("\n")[0]
    except OSError:
        return "unknown"


def report(content: dict[str, Any]) -> str:
    """The figures as tables in Markdown."""
    parts = content["parts"]
    texts = [", ".join(f"{key} {value}" for key, value in content["machine"].items())]
    for step, figures in parts.get("tests", {}).items():
        if "error" not in figures:
            texts.append(
                f"tests {step}: {figures['passed']} passed, {figures['skipped']} skipped, "
                f"{len(figures['failed'])} failed {' '.join(figures['failed'])}\n"
                f"{figures['output']}".rstrip()
            )
    for part in ("speed", "choices", "compiled"):
        texts += _speed_tables(part, parts)
    learned = [
        [step, *(figures[key] for key in ("iterations", "seconds", "box AP", "mask AP"))]
        for step, figures in parts.get("learning", {}).items()
        if "error" not in figures
    ]
    if learned:
        headers = ["learning", "iterations", "seconds", "box AP", "mask AP"]
        texts.append(tabulate(learned, headers, "pipe", floatfmt=".1f"))
    return "\n\n".join(texts)


def _speed_tables(part: str, parts: dict[str, Any]) -> list[str]:
    """For each kind of run, a table with ratios to the stock model in the same precision."""
    tables = []
    steps = {k: v for k, v in parts.get(part, {}).items() if "error" not in v}
    for kind in ("latency", "throughput", "training"):
        rows = {k.removeprefix(f"{kind} "): v for k, v in steps.items() if k.startswith(kind)}
        stages = list(dict.fromkeys(stage for row in rows.values() for stage in row["stages"]))
        lines = []
        for name, row in rows.items():
            model, precision = name.split(",")[0].rsplit("-", 1)
            stock = parts.get("speed", {}).get(f"{kind} stock-{precision}", {})
            time_ratio, memory_ratio = (
                row[key] / stock[key] if key in stock else None for key in ("seconds", "peak_mb")
            )
            goal = GOALS.get(model, {}) if part == "speed" else {}
            time = [name, 1e3 * row["seconds"], time_ratio, goal.get(kind)]
            memory = [row["peak_mb"], memory_ratio, goal.get("memory")]
            by_stage = [1e3 * row["stages"].get(stage, 0.0) for stage in stages]
            lines.append([*time, *memory, *by_stage])
        if lines:
            headers = [f"{part}: {kind}", "ms", "ratio", "goal", "peak MB", "ratio", "goal"]
            formats = ("", ".1f", ".2f", ".2f", ".0f", ".2f", ".2f", *[".1f"] * len(stages))
            tables.append(tabulate(lines, [*headers, *stages], "pipe", floatfmt=formats))
    return tables


if __name__ == "__main__":
    main()
