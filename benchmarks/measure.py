"""Run the rows of a benchmark against each other and report the results."""

import argparse
import gc
import json
import os
import platform
import re
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

# Runs the model once, and times its stages if given a clock.
Run = Callable[[StageClock | None], None]

_RUNS_FOR_PEAK_MEMORY = 2


def parse_arguments(description: str | None) -> argparse.Namespace:
    """Parse the command line that the benchmarks share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=torch.device, default=torch.device(default_device))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    add_common_arguments(parser)
    parser.add_argument("--peak-memory-of", choices=ROWS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    if BASELINE not in args.rows:
        args.rows.insert(0, BASELINE)
    reexecute(args.isa)
    return args


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of all speed benchmarks."""
    parser.add_argument("--isa", choices=("avx2",), help="do not use newer CPU instructions")
    parser.add_argument("--rounds", type=int, default=5, help="after a warm-up; default: 5")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to FILE")


def reexecute(isa: str | None) -> None:
    """Restart the program to limit the CPU instructions, which PyTorch detects on import."""
    if isa == "avx2" and AVX2_ONLY.items() - os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **AVX2_ONLY})


def supported_rows(names: Sequence[str], device: torch.device) -> list[str]:
    """Drop bfloat16 rows, with a message, on a CPU without bfloat16 instructions: too slow."""
    if device.type != "cpu" or has_fast_bfloat16():
        return list(names)
    skipped = [name for name in names if ROWS[name].dtype == torch.bfloat16]
    for name in skipped:
        print(f"{name} is skipped: this CPU has no instructions for bfloat16.")
    return [name for name in names if name not in skipped]


def benchmark(description: str | None, set_up: Callable[[Row, torch.device], Run]) -> None:
    """Time the rows against each other and print a report.

    Args:
        description: description of the command.
        set_up: builds the model of a row and returns a function that runs it.
    """
    args = parse_arguments(description)
    if args.peak_memory_of:
        run = set_up(ROWS[args.peak_memory_of], args.device)
        for _ in range(_RUNS_FOR_PEAK_MEMORY):
            run(None)
        print(peak_megabytes(args.device))
        return
    names = supported_rows(args.rows, args.device)
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
    macs = {}
    for name, run in tqdm(runs.items(), "warming up"):
        with flop_counter() as counter:
            run(None)
        macs[name] = counter.get_total_flops() // 2
    for _ in tqdm(range(rounds), "rounds"):
        for name, run in runs.items():
            gc.collect()
            clock = StageClock(device)
            start = clock.now()
            # On CUDA, waiting for every stage would slow down the run.
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
            "multiply_adds": macs[name],
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
    """Return the peak memory: allocated by PyTorch on a GPU, of the process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # from kilobytes


def machine(device: torch.device) -> str:
    """Describe the GPU, or the CPU and the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    model = cpuinfo.exists() and re.search(r"^model name\s*: (.*)", cpuinfo.read_text(), re.M)
    cpu = model[1].strip() if model else platform.processor() or platform.machine()
    return f"{torch.get_num_threads()} threads, {cpu}, {panet.utils.cpu.name()}"


def _as_text(report: dict[str, Any]) -> str:
    rows = report["rows"]
    baseline = next(row for row in rows if row["name"] == BASELINE)
    times = [
        {
            "": row["name"],
            "seconds": row["seconds"],
            "time ratio": row["ratio_to_stock"],
            "peak MB": row["peak_mb"],
            "memory ratio": row["peak_mb"] / baseline["peak_mb"],
            "10^9 MACs": row["multiply_adds"] / 1e9,
        }
        for row in rows
    ]
    stages = list(dict.fromkeys(stage for row in rows for stage in row["stages"]))
    by_stage = [
        [row["name"], *(row["stages"].get(stage, 0.0) for stage in stages)]
        for row in rows
        if row["stages"]
    ]
    speedup = report["pooling_speedup"]
    return (
        f"{report['machine']}, torch {report['torch']}, medians of {report['rounds']} rounds\n\n"
        f"{tabulate(times, 'keys', floatfmt=('', '.3f', '.2f', '.0f', '.2f', '.0f'))}\n\n"
        f"{tabulate(by_stage, ['seconds in', *stages], floatfmt='.3f')}\n\n"
        f"pooling from all levels: {speedup['forward']:.1f} times as fast as torchvision, "
        f"{speedup['forward_backward']:.1f} times with the backward pass"
    )
