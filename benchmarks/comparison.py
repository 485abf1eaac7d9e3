"""What the trainings of the ablation come to: a table of runs, some of rows, and a plot."""

import csv
import io
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components import BASELINE, ROWS, Row
from experiment import Result
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tabulate import tabulate

from panet.utils.atomic import open_atomically

TASKS = {"bbox": "box", "segm": "mask"}
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")

Value = Callable[[Result], float]


def write_comparison(results: Sequence[Result], folder: Path) -> None:
    """Write ablation.csv, ablation.md and ablation.png.

    Args:
        results: of finished trainings, at least one.
        folder: to write into.
    """
    for name, text in {"csv": _runs(results), "md": _markdown(results)}.items():
        with open_atomically(folder / f"ablation.{name}", "w") as file:
            file.write(text)
    with open_atomically(folder / "ablation.png") as file:
        _plot(results).savefig(file, format="png", dpi=150)


def _runs(results: Sequence[Result]) -> str:
    """A line for each training."""
    facts = ("iterations", "seconds_per_iteration", "parameters", "multiply_adds")
    about = ("device", "machine")
    metrics = [f"{name} {metric}" for name in TASKS.values() for metric in METRICS]
    versions = sorted({name for result in results for name in result["versions"]})
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(["row", "seed", *metrics, *facts, *about, *versions])
    for result in results:
        writer.writerow(
            [
                result["row"],
                result["seed"],
                *(result["metrics"][task][metric] for task in TASKS for metric in METRICS),
                *(result[name] for name in facts + about),
                *(result["versions"].get(name, "") for name in versions),
            ]
        )
    return output.getvalue()


def _markdown(results: Sequence[Result]) -> str:
    """Tables of masks, boxes and costs; a line for each row, with means and standard deviations."""
    tables = [_table(_quality(results, "segm")), _table(_quality(results, "bbox"))]
    tables.append(_table(_costs(results)))
    first = results[0]
    seeds = sorted({result["seed"] for result in results})
    machines = sorted({f"{result['device']} ({result['machine']})" for result in results})
    tables.append(
        f"{first['iterations']:,} iterations from the same random weights on the same data; seeds "
        f"{', '.join(map(str, seeds))}; {', '.join(machines)}. Figures are means over the seeds "
        "\u00b1 their standard deviation; gains are over the seeds that both rows have. "
        "Multiply-adds are those of one image at the limits of proposals and detections. Time is "
        f"the median of an iteration's, divided by that of {BASELINE.label}; it depends on what "
        "else the machine did.\n"
    )
    return "\n\n".join(tables)


def _table(lines: Sequence[Mapping[str, str]]) -> str:
    return tabulate(lines, headers="keys", tablefmt="pipe", disable_numparse=True)


def _quality(results: Sequence[Result], task: str) -> list[dict[str, str]]:
    lines = []
    for row in _rows(results):
        runs = _of(row, results)
        line = {"": row.label, "seeds": str(len(runs))}
        for metric in METRICS:
            line[f"{TASKS[task]} {metric}"] = _spread([_metric(task, metric)(run) for run in runs])
        reference = ROWS[row.reference] if row.reference else None
        line["gain"] = _gain(task, row, reference, results)
        line["over"] = reference.label if reference else ""
        line[f"over {BASELINE.label}"] = _gain(task, row, BASELINE if reference else None, results)
        lines.append(line)
    return lines


def _costs(results: Sequence[Result]) -> list[dict[str, str]]:
    baseline = [result["seconds_per_iteration"] for result in _of(BASELINE, results)]
    lines = []
    for row in _rows(results):
        runs = _of(row, results)
        seconds = statistics.median(run["seconds_per_iteration"] for run in runs)
        lines.append(
            {
                "": row.label,
                "10^6 parameters": f"{runs[0]['parameters'] / 1e6:.2f}",
                "10^9 multiply-adds": f"{runs[0]['multiply_adds'] / 1e9:.2f}",
                "time": f"{seconds / statistics.median(baseline):.2f}" if baseline else "",
            }
        )
    return lines


def _gain(task: str, row: Row, reference: Row | None, results: Sequence[Result]) -> str:
    """In AP, over the row of reference, with the seeds that both have."""
    if reference is None:
        return ""
    ap = _metric(task, "AP")
    former = {result["seed"]: ap(result) for result in _of(reference, results)}
    runs = [run for run in _of(row, results) if run["seed"] in former]
    return _spread([ap(run) - former[run["seed"]] for run in runs], sign="+")


def _metric(task: str, metric: str) -> Value:
    return lambda result: result["metrics"][task][metric]


def _spread(values: Sequence[float], sign: str = "") -> str:
    """Mean and, of several values, standard deviation; "" if there is nothing to measure."""
    if not values or any(map(math.isnan, values)):
        return ""
    mean = f"{statistics.fmean(values):{sign}.1f}"
    return f"{mean} \u00b1 {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _rows(results: Sequence[Result]) -> list[Row]:
    return [row for row in ROWS.values() if _of(row, results)]


def _of(row: Row, results: Sequence[Result]) -> list[Result]:
    return [result for result in results if result["row"] == row.name]


def _plot(results: Sequence[Result]) -> Figure:
    """Box and mask AP: a dot for each seed, and mean and standard deviation of the row."""
    rows = _rows(results)
    figure = Figure(figsize=(9.0, 1.2 + 0.36 * len(rows)), layout="constrained")
    panels: Any = figure.subplots(1, len(TASKS), sharey=True)
    for axes, (task, name) in zip(panels, TASKS.items()):
        _plot_task(axes, rows, results, _metric(task, "AP"))
        axes.set_xlabel(f"{name} AP, %")
    panels[0].set_yticks(range(len(rows)), [row.label for row in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)  # the first row above
    return figure


def _plot_task(axes: Axes, rows: Sequence[Row], results: Sequence[Result], value: Value) -> None:
    for place, row in enumerate(rows):
        values = [value(result) for result in _of(row, results)]
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        axes.plot(values, [place] * len(values), "o", color="0.6", markersize=4)
        axes.errorbar(
            statistics.fmean(values),
            place,
            xerr=spread,
            fmt="D",
            color="C0",
            markersize=5,
            capsize=3,
        )
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
