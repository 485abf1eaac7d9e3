"""The comparison of the ablation's rows: a table of trainings, tables of rows, and a plot."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
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


def write_comparison(results: Sequence[Result], folder: Path) -> None:
    """Write ablation.csv, ablation.md and ablation.png.

    Args:
        results: results of finished trainings, at least one.
        folder: the folder to write into.
    """
    for name, text in {"csv": _csv(results), "md": _markdown(results)}.items():
        with open_atomically(folder / f"ablation.{name}", "w") as file:
            file.write(text)
    with open_atomically(folder / "ablation.png") as file:
        _plot(results).savefig(file, format="png", dpi=150)


def _csv(results: Sequence[Result]) -> str:
    """Format a line per training."""
    costs = ("iterations", "seconds_per_iteration", "parameters", "multiply_adds")
    versions = sorted({name for result in results for name in result["versions"]})
    lines = [
        {name: result[name] for name in ("row", "seed")}
        | {
            f"{label} {metric}": result["metrics"][task][metric]
            for task, label in TASKS.items()
            for metric in METRICS
        }
        | {name: result[name] for name in (*costs, "device", "machine")}
        | {name: result["versions"].get(name, "") for name in versions}
        for result in results
    ]
    output = io.StringIO()
    writer = csv.DictWriter(output, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return output.getvalue()


def _markdown(results: Sequence[Result]) -> str:
    """Format tables of masks, boxes and costs, with means and standard deviations per row."""
    tables = [_quality(results, "segm"), _quality(results, "bbox"), _costs(results)]
    seeds = sorted({result["seed"] for result in results})
    machines = sorted({f"{result['device']} ({result['machine']})" for result in results})
    note = (
        f"{results[0]['iterations']:,} iterations from the same random weights on the same data; "
        f"seeds {', '.join(map(str, seeds))}; {', '.join(machines)}. Values are means \u00b1 "
        "standard deviations over the seeds; gains are over the seeds that both rows have. MACs "
        "are for one image with the maximum numbers of proposals and detections. Time is the "
        f"median time of an iteration as a ratio to that of {BASELINE.label}; other programs on "
        "the machine influence it.\n"
    )
    texts = [tabulate(t, headers="keys", tablefmt="pipe", disable_numparse=True) for t in tables]
    return "\n\n".join([*texts, note])


def _quality(results: Sequence[Result], task: str) -> list[Mapping[str, str]]:
    lines = []
    for row in _rows(results):
        runs = _select(results, row)
        line = {"": row.label, "seeds": str(len(runs))}
        for metric in METRICS:
            values = [run["metrics"][task][metric] for run in runs]
            line[f"{TASKS[task]} {metric}"] = _mean_and_deviation(values)
        reference = ROWS[row.reference] if row.reference else None
        line["gain"] = _gain(task, row, reference, results)
        line["over"] = reference.label if reference else ""
        line[f"over {BASELINE.label}"] = _gain(task, row, BASELINE if reference else None, results)
        lines.append(line)
    return lines


def _costs(results: Sequence[Result]) -> list[Mapping[str, str]]:
    def seconds(row: Row) -> float:
        runs = _select(results, row)
        return statistics.median(run["seconds_per_iteration"] for run in runs)

    baseline = seconds(BASELINE) if _select(results, BASELINE) else None
    lines = []
    for row in _rows(results):
        run = _select(results, row)[0]
        lines.append(
            {
                "": row.label,
                "parameters, millions": f"{run['parameters'] / 1e6:.2f}",
                "MACs, billions": f"{run['multiply_adds'] / 1e9:.2f}",
                "time": f"{seconds(row) / baseline:.2f}" if baseline else "",
            }
        )
    return lines


def _gain(task: str, row: Row, reference: Row | None, results: Sequence[Result]) -> str:
    """Format the gain in AP over the reference, over the seeds that both rows have."""
    if reference is None:
        return ""
    ap, former = (
        {run["seed"]: run["metrics"][task]["AP"] for run in _select(results, which)}
        for which in (row, reference)
    )
    gains = [ap[seed] - former[seed] for seed in ap if seed in former]
    return _mean_and_deviation(gains, sign="+")


def _mean_and_deviation(values: Sequence[float], sign: str = "") -> str:
    """Format the mean and, for several values, their deviation; "" without values or with NaN."""
    if not values or any(map(math.isnan, values)):
        return ""
    mean = f"{statistics.fmean(values):{sign}.1f}"
    return f"{mean} \u00b1 {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _rows(results: Sequence[Result]) -> list[Row]:
    return [row for row in ROWS.values() if _select(results, row)]


def _select(results: Sequence[Result], row: Row) -> list[Result]:
    return [result for result in results if result["row"] == row.name]


def _plot(results: Sequence[Result]) -> Figure:
    """Plot box and mask AP: a dot per seed, and the mean and standard deviation of each row."""
    rows = _rows(results)
    figure = Figure(figsize=(9.0, 1.2 + 0.36 * len(rows)), layout="constrained")
    panels: Any = figure.subplots(1, len(TASKS), sharey=True)
    for axes, (task, label) in zip(panels, TASKS.items()):
        for place, row in enumerate(rows):
            _plot_row(axes, place, [r["metrics"][task]["AP"] for r in _select(results, row)])
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel(f"{label} AP, %")
    panels[0].set_yticks(range(len(rows)), [row.label for row in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)  # the first row at the top
    return figure


def _plot_row(axes: Axes, place: int, values: Sequence[float]) -> None:
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    axes.plot(values, [place] * len(values), "o", color="0.6", markersize=4)
    mean, style = statistics.fmean(values), {"fmt": "D", "color": "C0", "markersize": 5}
    axes.errorbar(mean, place, xerr=spread, capsize=3, **style)
