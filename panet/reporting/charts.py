"""The charts of a report, as pictures that a page can hold."""

import base64
import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .accuracy import CURVE_IOUS, Accuracy
from .confusion import Confusion
from .run import Metrics

LOSSES = "total_loss", "loss_"
"""How the names of losses begin."""
MAX_NAMED_CURVES = 10
"""With more classes than these their curves are grey and only the mean has a name."""
MAX_NUMBERED_CLASSES = 25
"""With more classes than these the cells of the confusion matrix have no numbers."""
MAX_NAMED_CLASSES = 100
"""With more classes than these its rows and columns have no names."""


def draw_losses(metrics: Metrics) -> str | None:
    """Every loss over the iterations; None without any."""
    names = sorted({name for values in metrics.values() for name in values})
    losses = [name for name in names if name.startswith(LOSSES)]
    if not losses:
        return None
    figure, axes = _figure(5.8, 3.4)
    for name in sorted(losses, key=lambda name: name != "total_loss"):
        total = name == "total_loss"
        label = "total" if total else name.removeprefix("loss_")
        style = {"color": "black", "linewidth": 2.0} if total else {"linewidth": 1.3}
        axes.plot(*_series(metrics, name), label=label, **style)
    axes.set_xlabel("iteration")
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    _legend_outside(axes)
    return _picture(figure)


def draw_learning_rate(metrics: Metrics) -> str | None:
    """The learning rate over the iterations; None where it is not told."""
    iterations, rates = _series(metrics, "lr")
    if not iterations:
        return None
    figure, axes = _figure(5.8, 3.4)
    axes.plot(iterations, rates)
    axes.set_xlabel("iteration")
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    return _picture(figure)


def evaluated_iterations(metrics: Metrics) -> list[int]:
    """At which iterations the metrics have an AP."""
    return [i for i, values in metrics.items() if any(map(_is_overall_ap, values))]


def draw_ap_over_time(metrics: Metrics) -> str:
    """The AP of every task at each evaluation."""
    figure, axes = _figure(5.8, 3.4)
    names = sorted({name for values in metrics.values() for name in values})
    for name in filter(_is_overall_ap, names):
        label = name.replace("/AP", "").replace("bbox", "box").replace("segm", "mask")
        axes.plot(*_series(metrics, name), marker="o", markersize=4, label=label)
    axes.set_xlabel("iteration")
    axes.set_ylabel("AP, %")
    axes.set_ylim(bottom=0)
    _legend_outside(axes)
    return _picture(figure)


def _is_overall_ap(name: str) -> bool:
    """Whether it is "bbox/AP" or, with several datasets, "name/bbox/AP"."""
    return name.split("/")[-2:] in (["bbox", "AP"], ["segm", "AP"])


def draw_precision_recall(accuracy: Accuracy, classes: Sequence[str]) -> str:
    """The curves of every class and of their mean, for two thresholds side by side."""
    figure = _new_figure(10.8, 4.0)
    named = len(classes) <= MAX_NAMED_CURVES
    for axes, iou in zip(figure.subplots(1, 2, sharey=True), CURVE_IOUS):
        _style(axes)
        curves = accuracy.precision[iou]
        present = ~np.isnan(curves).all(axis=1)
        for name, curve in zip(np.array(classes)[present], curves[present]):
            style = {"label": name} if named else {"color": "0.75", "linewidth": 0.7}
            axes.plot(accuracy.recall, curve, **style)
        if present.any():
            mean = curves[present].mean(axis=0)
            axes.plot(accuracy.recall, mean, color="black", linewidth=2.2, label="mean")
        axes.set_title(f"IoU {iou}")
        axes.set_xlabel("recall")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
    figure.axes[0].set_ylabel("precision")
    _legend_outside(figure.axes[1])
    return _picture(figure)


def draw_confusion(confusion: Confusion) -> str:
    """The matrix, coloured by the share of its row, with the numbers while they can be read."""
    counts, num_classes = confusion.counts, len(confusion.classes)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    side = min(4.5 + 0.35 * num_classes, 12.0)
    figure, axes = _figure(side + 1.0, side)
    axes.grid(visible=False)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if num_classes <= MAX_NUMBERED_CLASSES:
        for row, column in np.ndindex(*counts.shape):
            if row == column == num_classes:
                continue  # what is neither there nor predicted cannot be counted
            color = "white" if shares[row, column] > 0.5 else "black"
            text = f"{counts[row, column]:,}"
            axes.text(column, row, text, color=color, ha="center", va="center")
    if num_classes <= MAX_NAMED_CLASSES:
        names = [*confusion.classes, "nothing"]
        size = 9 if num_classes <= MAX_NUMBERED_CLASSES else 6
        axes.set_yticks(range(num_classes + 1), names, fontsize=size)
        rotation = 0 if num_classes <= 5 else 90
        axes.set_xticks(range(num_classes + 1), names, fontsize=size, rotation=rotation)
    axes.set_ylabel("what is there")
    axes.set_xlabel("what is predicted")
    figure.colorbar(image, shrink=0.7, label="share of the row")
    return _picture(figure)


def _series(metrics: Metrics, name: str) -> tuple[list[int], list[float]]:
    points = {i: values[name] for i, values in metrics.items() if name in values}
    return list(points), list(points.values())


def _new_figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = _new_figure(width, height)
    axes = figure.subplots()
    _style(axes)
    return figure, axes


def _style(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _legend_outside(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _picture(figure: Figure) -> str:
    """The figure as an SVG in a data URI."""
    buffer = io.BytesIO()
    # Without a date and with a fixed salt, the same run gives the same page.
    with mpl.rc_context({"svg.hashsalt": "panet"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
