"""Charts of a report, as data URIs for embedding in a page."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .accuracy import CURVE_IOUS, Accuracy
from .confusion import Confusion
from .run import Metrics

LOSSES = "total_loss", "loss_"
"""Prefixes of the names of losses."""
MAX_NAMED_CURVES = 10
"""With more classes, their curves are grey and only the mean is labelled."""
MAX_NUMBERED_CLASSES = 25
"""With more classes, the cells of the confusion matrix have no numbers."""
MAX_NAMED_CLASSES = 100
"""With more classes, the rows and columns of the confusion matrix have no names."""


def draw_losses(metrics: Metrics) -> str | None:
    """Plot every loss over the iterations; None if there is none."""
    losses = [name for name in _names(metrics) if name.startswith(LOSSES)]
    if not losses:
        return None
    losses.sort(key=lambda name: name != "total_loss")
    labels = {name: name.replace("total_loss", "total").removeprefix("loss_") for name in losses}
    figure, axes = _plot_over_iterations(metrics, labels, "loss", linewidth=1.3)
    _legend_outside(axes)
    return _data_uri(figure)


def draw_learning_rate(metrics: Metrics) -> str | None:
    """Plot the learning rate over the iterations; None if it is not recorded."""
    if "lr" not in _names(metrics):
        return None
    figure, axes = _plot_over_iterations(metrics, {"lr": "lr"}, "learning rate")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    return _data_uri(figure)


def evaluated_iterations(metrics: Metrics) -> list[int]:
    """Return the iterations with an AP in the metrics."""
    return [i for i, values in metrics.items() if any(map(_is_overall_ap, values))]


def draw_ap_over_time(metrics: Metrics) -> str:
    """Plot the AP of every task at each evaluation."""
    labels = {
        name: name.replace("/AP", "").replace("bbox", "box").replace("segm", "mask")
        for name in filter(_is_overall_ap, _names(metrics))
    }
    figure, axes = _plot_over_iterations(metrics, labels, "AP, %", marker="o", markersize=4)
    _legend_outside(axes)
    return _data_uri(figure)


def _is_overall_ap(name: str) -> bool:
    """Whether it is "bbox/AP" or, with several datasets, "name/bbox/AP"; same for "segm"."""
    return name.split("/")[-2:] in (["bbox", "AP"], ["segm", "AP"])


def draw_precision_recall(accuracy: Accuracy, classes: Sequence[str]) -> str:
    """Plot the curves of every class and their mean, for two IoU thresholds side by side."""
    figure = Figure(figsize=(10.8, 4.0), layout="constrained")
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
        axes.set(title=f"IoU {iou}", xlabel="recall", xlim=(0, 1), ylim=(0, 1.02))
    figure.axes[0].set_ylabel("precision")
    _legend_outside(figure.axes[1])
    return _data_uri(figure)


def draw_confusion(confusion: Confusion) -> str:
    """Plot the matrix, colored by the share of its row, with counts if there is space for them."""
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
                continue  # true negatives cannot be counted
            color = "white" if shares[row, column] > 0.5 else "black"
            text = f"{counts[row, column]:,}"
            axes.text(column, row, text, color=color, ha="center", va="center")
    if num_classes <= MAX_NAMED_CLASSES:
        names = [*confusion.classes, "background"]
        size = 9 if num_classes <= MAX_NUMBERED_CLASSES else 6
        axes.set_yticks(range(num_classes + 1), names, fontsize=size)
        rotation = 0 if num_classes <= 5 else 90
        axes.set_xticks(range(num_classes + 1), names, fontsize=size, rotation=rotation)
    axes.set(xlabel="prediction", ylabel="ground truth")
    figure.colorbar(image, shrink=0.7, label="share of the row")
    return _data_uri(figure)


def _names(metrics: Metrics) -> list[str]:
    return sorted({name for values in metrics.values() for name in values})


def _plot_over_iterations(
    metrics: Metrics, labels: Mapping[str, str], ylabel: str, **style: Any
) -> tuple[Figure, Axes]:
    figure, axes = _figure(5.8, 3.4)
    for name, label in labels.items():
        points = {i: values[name] for i, values in metrics.items() if name in values}
        own_style = {"color": "black", "linewidth": 2.0} if name == "total_loss" else style
        axes.plot(list(points), list(points.values()), label=label, **own_style)
    axes.set(xlabel="iteration", ylabel=ylabel)
    axes.set_ylim(bottom=0)
    return figure, axes


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    _style(axes)
    return figure, axes


def _style(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _legend_outside(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _data_uri(figure: Figure) -> str:
    """Encode the figure as SVG in a data URI."""
    buffer = io.BytesIO()
    # No date and a fixed salt make the page reproducible.
    with mpl.rc_context({"svg.hashsalt": "panet"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
