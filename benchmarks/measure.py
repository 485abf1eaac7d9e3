"""Running the rows of a benchmark against each other, and the report."""

import argparse
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from macs import flop_counter
from pooling import pooling_speedup
from rows import BASELINE, ROWS, Row
from stages import StageClock
from tabulate import tabulate
from tqdm import tqdm

import panet.utils.cpu
from panet.utils.cpu import AVX2_ONLY, has_fast_bfloat16

# Runs the model once; with a clock, on which its stages run along.
Run = Callable[[StageClock | None], None]

_RUNS_FOR_PEAK_MEMORY = 2


def parse_arguments(description: str | None) -> argparse.Namespace:
    """The command line that the benchmarks share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=torch.device, default=torch.device(default_device))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--isa", choices=("avx2",), help="imitate a CPU that has nothing newer")
    parser.add_argument("--rounds", type=int, default=5, help="after a run that warms up")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--peak-memory-of", choices=ROWS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    if BASELINE not in args.rows:
        args.rows.insert(0, BASELINE)
    reexecute(args.isa)
    return args


def reexecute(isa: str | None) -> None:
    """Start the program anew if it is to imitate an older CPU: PyTorch asks when it is loaded."""
    if isa == "avx2" and AVX2_ONLY.items() - os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **AVX2_ONLY})


def without_hopeless_rows(names: Sequence[str], device: torch.device) -> list[str]:
    """The rows but for those in bfloat16 where that would not end; says which are left out."""
    possible = [
        name
        for name in names
        if ROWS[name].dtype != torch.bfloat16 or device.type != "cpu" or has_fast_bfloat16()
    ]
    for name in names:
        if name not in possible:
            print(f"{name} is left out: this CPU has no instructions for bfloat16.")
    return possible


def benchmark(description: str | None, set_up: Callable[[Row, torch.device], Run]) -> None:
    """Time the rows against each other and report.

    Args:
        description: of the command.
        set_up: builds the model of a row and returns what runs it.
    """
    args = parse_arguments(description)
    if args.peak_memory_of:
        run = set_up(ROWS[args.peak_memory_of], args.device)
        for _ in range(_RUNS_FOR_PEAK_MEMORY):
            run(None)
        print(peak_megabytes(args.device))
        return
    names = without_hopeless_rows(args.rows, args.device)
    peaks = {name: _peak_in_new_process(name, args.device) for name in tqdm(names, "memory")}
    rows = _time_alternately(names, set_up, args.device, args.rounds)
    for row in rows:
        row["peak_mb"] = peaks[row["name"]]
    report = {
        "machine": machine(args.device),
        "torch": torch.__version__,
        "rounds": args.rounds,
        "rows": rows,
        "pooling_speedup": pooling_speedup(args.device, args.rounds),
    }
    print(_as_text(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


def _time_alternately(
    names: Sequence[str],
    set_up: Callable[[Row, torch.device], Run],
    device: torch.device,
    rounds: int,
) -> list[dict[str, Any]]:
    runs = {name: set_up(ROWS[name], device) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    stages: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    multiply_adds = {}
    for name, run in tqdm(runs.items(), "warming up"):
        with flop_counter() as counter:
            run(None)
        multiply_adds[name] = counter.get_total_flops() // 2
    for _ in tqdm(range(rounds), "rounds"):
        for name, run in runs.items():
            gc.collect()
            clock = StageClock(device)
            start = clock.now()
            # On CUDA, to wait for every stage would take time itself.
            run(clock if device.type == "cpu" else None)
            elapsed = clock.now() - start
            if device.type != "cpu":
                run(clock)
            seconds[name].append(elapsed)
            stages[name].append(clock.seconds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return [
        {
            "name": name,
            "device": str(device),
            "dtype": str(ROWS[name].dtype).removeprefix("torch."),
            "seconds": medians[name],
            "ratio_to_stock": medians[name] / medians[BASELINE],
            "multiply_adds": multiply_adds[name],
            "stages": {
                stage: statistics.median(values[stage] for values in stages[name])
                for stage in stages[name][0]
            },
        }
        for name in names
    ]


def _peak_in_new_process(name: str, device: torch.device) -> float:
    command = [sys.executable, sys.argv[0], "--device", str(device), "--peak-memory-of", name]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return float(output.splitlines()[-1])


def peak_megabytes(device: torch.device) -> float:
    """What was allocated at most: by PyTorch on a GPU, by the process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / 2**10


def machine(device: torch.device) -> str:
    """The GPU, or the CPU and how many of its threads are used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.split(":")[1].strip()
                break
    return f"{torch.get_num_threads()} threads, {cpu}, {panet.utils.cpu.name()}"


def _as_text(report: dict[str, Any]) -> str:
    rows = report["rows"]
    baseline = next(row for row in rows if row["name"] == BASELINE)
    stages = list(dict.fromkeys(stage for row in rows for stage in row["stages"]))
    times = tabulate(
        [
            [
                row["name"],
                row["seconds"],
                row["ratio_to_stock"],
                row["peak_mb"],
                row["peak_mb"] / baseline["peak_mb"],
                row["multiply_adds"] / 1e9,
            ]
            for row in rows
        ],
        headers=["", "seconds", "ratio", "peak MB", "ratio", "10^9 multiply-adds"],
        floatfmt=("", ".3f", ".2f", ".0f", ".2f", ".0f"),
    )
    by_stage = tabulate(
        [
            [row["name"], *(row["stages"].get(stage, 0.0) for stage in stages)]
            for row in rows
            if row["stages"]
        ],
        headers=["seconds in", *stages],
        floatfmt=".3f",
    )
    speedup = report["pooling_speedup"]
    return (
        f"{report['machine']}, torch {report['torch']}, medians of {report['rounds']} rounds\n\n"
        f"{times}\n\n{by_stage}\n\npooling from all levels: {speedup['forward']:.1f} times as "
        f"fast as torchvision, {speedup['forward_backward']:.1f} times with the backward pass"
    )
