"""Write the tables of the ablations into results.md and results_appendix.md.

A table stands between the lines ``<!-- table: KIND NAME -->`` and ``<!-- end of table -->``. KIND
is a key of ``TABLES``; the figures are from NAME_ablation.csv, which has a line per training. They
are means and standard deviations over the seeds. Gains are over the seeds that both rows have.
With --check, nothing is written, and the exit status is 1 if a file is not up to date.
"""

import argparse
import csv
import functools
import math
import re
import statistics
from collections.abc import Callable
from pathlib import Path

from tabulate import tabulate

DOCS = Path(__file__).parent
ROWS = {  # label, and the row it is compared with, or the row above if that was not trained
    "mask-rcnn": ("Mask R-CNN", ""),
    "bottom-up": ("+ bottom-up path", "mask-rcnn"),
    "pooling": ("+ adaptive feature pooling", "mask-rcnn"),
    "both": ("+ both", "bottom-up"),
    "fc-fusion": ("+ fully-connected fusion", "both"),
    "panet": ("+ heavier head: PANet", "fc-fusion"),
    "pooling-sum": ("levels fused by sum", "pooling"),
    "pooling-before": ("levels fused before the first layer", "pooling"),
    "pooling-shared": ("one first layer for all levels", "pooling"),
    "fc-conv2": ("branch from conv2", "fc-fusion"),
    "fc-conv4": ("branch from conv4", "fc-fusion"),
    "fc-product": ("product of logits", "fc-fusion"),
    "fc-max": ("maximum of logits", "fc-fusion"),
}
Line = dict[str, str]

# The trainings whose times are valid because no other program ran beside them; by default all.
TIMED: dict[str, Callable[[Line], bool]] = {
    "nuclei": lambda run: list(ROWS).index(run["row"]) < 6,
    "nuclei_equal_proposals": lambda run: run["seed"] == "1",
}


def read_runs(name: str) -> dict[str, list[Line]]:
    """Read NAME_ablation.csv: the trainings of each row."""
    runs: dict[str, list[Line]] = {}
    with (DOCS / f"{name}_ablation.csv").open(newline="") as file:
        for run in csv.DictReader(file):
            runs.setdefault(run["row"], []).append(run)
    return runs


def spread(values: list[float], sign: str = "") -> str:
    """Format mean and standard deviation; "" if there is nothing to measure."""
    if not values or any(map(math.isnan, values)):
        return ""
    mean = f"{statistics.fmean(values):{sign}.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def gain(runs: list[Line], reference: list[Line], metric: str) -> str:
    """Format the difference in a metric, paired by seed."""
    former = {run["seed"]: float(run[metric]) for run in reference}
    shared = [run for run in runs if run["seed"] in former]
    return spread([float(run[metric]) - former[run["seed"]] for run in shared], sign="+")


def quality(name: str, task: str) -> list[Line]:
    """Metrics of "mask" or "box", and gains over the reference and over Mask R-CNN."""
    rows, lines, above = read_runs(name), [], ""
    for row, runs in rows.items():
        reference = ROWS[row][1] if ROWS[row][1] in rows else above
        line = {"": ROWS[row][0], "seeds": str(len(runs))}
        for metric in ("AP", "AP50", "AP75", "APs", "APm", "APl"):
            if value := spread([float(run[f"{task} {metric}"]) for run in runs]):
                line[f"{task} {metric}"] = value
        line["gain"] = gain(runs, rows.get(reference, []), f"{task} AP")
        line["over"] = ROWS[reference][0] if reference else ""
        line["over Mask R-CNN"] = gain(runs, rows["mask-rcnn"], f"{task} AP") if reference else ""
        lines.append(line)
        above = row
    return lines


def cost(name: str) -> list[Line]:
    """Parameters, MACs, and the median time per iteration as a ratio to that of Mask R-CNN."""
    lines, baseline = [], 0.0
    for row, runs in read_runs(name).items():
        timed = [float(run["seconds_per_iteration"]) for run in runs if TIMED.get(name, bool)(run)]
        seconds = statistics.median(timed or [0])
        baseline = baseline or seconds
        line = {"": ROWS[row][0]}
        line["parameters, millions"] = f"{int(runs[0]['parameters']) / 1e6:.2f}"
        line["MACs, billions"] = f"{int(runs[0]['multiply_adds']) / 1e9:.2f}"
        lines.append(line | {"time": f"{seconds / baseline:.2f}" if timed else ""})
    return lines


def summary(name: str) -> list[Line]:
    """AP of masks and boxes, the gains over Mask R-CNN, and the costs."""
    lines: list[Line] = [{"": costs[""]} for costs in cost(name)]
    for task in ("mask", "box"):
        for line, full in zip(lines, quality(name, task)):
            line |= {f"{task} AP": full[f"{task} AP"], f"{task} gain": full["over Mask R-CNN"]}
    return [line | costs for line, costs in zip(lines, cost(name))]


def norms(name: str) -> list[Line]:
    """AP with a norm in the mask head (nuclei_ablation.csv) and without (NAME_ablation.csv)."""
    normalized, lines = read_runs("nuclei"), []
    for row, runs in read_runs(name).items():
        line = {"": ROWS[row][0]}
        for ap in ("mask AP", "box AP"):
            line[f"{ap} with group norm"] = spread([float(run[ap]) for run in normalized[row]])
            line[f"{ap} without"] = spread([float(run[ap]) for run in runs])
            line[f"{ap} difference"] = gain(runs, normalized[row], ap)
        lines.append(line)
    return lines


def settings(name: str) -> list[Line]:
    """AP of Mask R-CNN and of the three components, with a line per setting and seed."""
    lines: dict[tuple[str, ...], Line] = {}
    for row, runs in read_runs(name).items():
        label = {"mask-rcnn": "Mask R-CNN", "fc-fusion": "three components"}[row]
        for run in runs:
            line = {name: run[name] for name in ("units", "RPN weight", "seed")}
            line = lines.setdefault(tuple(line.values()), line)
            line |= {f"{ap}, {label}": f"{float(run[ap]):.1f}" for ap in ("mask AP", "box AP")}
    return list(lines.values())


TABLES: dict[str, Callable[[str], list[Line]]] = {
    table.__name__: table for table in (cost, summary, norms, settings)
} | {task: functools.partial(quality, task=task) for task in ("mask", "box")}


def write_table(match: re.Match[str]) -> str:
    """Write the table that a comment names below the comment."""
    lines = TABLES[match[2]](match[3])
    table = tabulate(lines, headers="keys", tablefmt="pipe", disable_numparse=True)
    return f"{match[1]}\n\n{table}\n\n{match[4]}"


def main() -> int:
    """Write the tables, or return 1 if --check finds a file that is not up to date."""
    parser = argparse.ArgumentParser(description="Write the tables of results*.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if out of date")
    check, status = parser.parse_args().check, 0
    pattern = r"(<!-- table: (\w+) (\w+) -->)\n.*?(<!-- end of table -->)"
    for path in sorted(DOCS.glob("results*.md")):
        text = path.read_text()
        updated = re.sub(pattern, write_table, text, flags=re.DOTALL)
        if check and updated != text:
            print(f"{path} is not up to date; run python docs/write_appendix.py.")
            status = 1
        elif updated != text:
            path.write_text(updated)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
