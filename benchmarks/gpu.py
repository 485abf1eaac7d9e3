#!/usr/bin/env python
"""Test and measure PANet on a GPU, in at most eight minutes.

tests      the tests marked "gpu"
speed      detectron2's Mask R-CNN, PANet 2fc and panet_R50_2x in bf16, fp32 and fp16: latency of
           one image, throughput of eight, a training iteration, peak memory, stages
learning   300 iterations on the embedded dataset, on the GPU and on the CPU
choices    PANet 2fc with other settings, in bf16
compiled   latency with the backbone compiled, and as a CUDA graph, in bf16

Results are written after every step. If restarted, the program skips the steps that have results
and repeats those that failed. It needs neither the network nor a dataset.
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
"""Upper limits of the ratios to detectron2's Mask R-CNN in the same precision."""


class Results:
    """The results of a machine in a JSON file, which is updated after every step."""

    def __init__(self, file: Path, description: dict[str, Any]) -> None:
        """
        Args:
            file: the file to create, or to continue if it exists.
            description: the machine and the versions.

        Raises:
            UserError: if the file is from another machine or other versions.
        """
        self.file = file
        self.content: dict[str, Any] = {"machine": description, "parts": {}}
        if file.exists():
            self.content = json.loads(file.read_text())
            if self.content["machine"] != description:
                raise UserError(
                    f"{file} is from another machine or other versions: "
                    f"{self.content['machine']}; choose another folder with --output."
                )

    def has(self, part: str, step: str) -> bool:
        """Return whether a step has succeeded."""
        return "error" not in self.content["parts"].get(part, {}).get(step, {"error": "missing"})

    def add(self, part: str, step: str, values: dict[str, Any]) -> None:
        """Write the result of a step."""
        self.content["parts"].setdefault(part, {})[step] = values
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with open_atomically(self.file, "w") as file:
            file.write(json.dumps(self.content, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("output/gpu"), metavar="DIR")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    limit = "stop after this time; default: 460"
    parser.add_argument("--limit", type=float, default=460.0, metavar="SECONDS", help=limit)
    parser.add_argument("--dry-run", action="store_true", help="use tiny sizes and the CPU")
    parser.add_argument("--run-part", choices=PARTS, help=argparse.SUPPRESS)
    return parser.parse_args()


@exit_on_user_error()
def main() -> None:
    """Run each part in its own process and print a report."""
    args = parse_arguments()
    if not args.dry_run and not torch.cuda.is_available():
        raise UserError("There is no GPU; use --dry-run to test all steps on the CPU.")
    extent = Extent(args.dry_run)
    results_file = args.output / ("dry_run.json" if args.dry_run else "gpu.json")
    if args.run_part:
        run_part(args.run_part, extent, Results(results_file, describe(extent)))
        return
    Results(results_file, describe(extent))  # raises if the file is from another machine
    deadline = time.monotonic() + args.limit
    failures = []
    for part in args.parts:
        command = [sys.executable, __file__, "--run-part", part, "--output", str(args.output)]
        try:
            # In its own process, a part that breaks the GPU's state does not affect the next.
            status = run_until(deadline, [*command, *["--dry-run"] * args.dry_run])
        except subprocess.TimeoutExpired:
            print(f"{part}: stopped at the limit of {args.limit:.0f} s; restart to continue.")
            break
        if status != 0:
            failures.append(f"{part}: the process exited with status {status}")
    results = Results(results_file, describe(extent))
    print(report(results.content))
    failures += [
        f"{part}, {step}: {values['error']}"
        for part, steps in results.content["parts"].items()
        for step, values in steps.items()
        if "error" in values
    ]
    if failures:
        raise UserError("These steps failed:\n" + "\n".join(failures))


def run_until(deadline: float, command: list[str]) -> int:
    """Run a command, and at the deadline kill it and all processes it has started.

    Args:
        deadline: deadline in terms of ``time.monotonic()``.
        command: the program and its arguments.

    Returns:
        The exit status.

    Raises:
        subprocess.TimeoutExpired: if the command was killed.
    """
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_part(part: str, extent: Extent, results: Results) -> None:
    """Run the steps of a part that have no result yet."""
    for step, measure in PARTS[part](extent):
        if results.has(part, step):
            continue
        start = time.perf_counter()
        try:
            values = measure()
        except Exception as error:
            traceback.print_exc()
            values = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        results.add(part, step, values)
        print(f"{part}: {step}, {time.perf_counter() - start:.0f} s", flush=True)


def describe(extent: Extent) -> dict[str, Any]:
    """Return the machine and the versions."""
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
    """Format the results as Markdown tables."""
    parts = {
        part: {step: values for step, values in steps.items() if "error" not in values}
        for part, steps in content["parts"].items()
    }
    texts = [", ".join(f"{key} {value}" for key, value in content["machine"].items())]
    for step, values in parts.get("tests", {}).items():
        texts.append(
            f"tests {step}: {values['passed']} passed, {values['skipped']} skipped, "
            f"{len(values['failed'])} failed {' '.join(values['failed'])}\n"
            f"{values['output']}".rstrip()
        )
    for part in ("speed", "choices", "compiled"):
        texts += _speed_tables(part, parts)
    if learning := parts.get("learning"):
        lines = [{"learning": device} | values for device, values in learning.items()]
        texts.append(tabulate(lines, "keys", "pipe", floatfmt=".1f"))
    return "\n\n".join(texts)


def _speed_tables(part: str, parts: dict[str, Any]) -> list[str]:
    """Format a table per kind of run, with ratios to the stock model in the same precision."""
    tables = []
    for kind in ("latency", "throughput", "training"):
        rows = {
            step.removeprefix(f"{kind} "): values
            for step, values in parts.get(part, {}).items()
            if step.startswith(kind)
        }
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
