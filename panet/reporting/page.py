"""Rendering of the report page."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import numpy as np

from panet.utils.errors import UserError
from panet.version import __version__

from . import charts
from .accuracy import METRICS, Accuracy, measure
from .confusion import Confusion, compare
from .detections import Detections, read_detections
from .examples import Example, draw_examples
from .run import Metrics, Run

TASKS = {"bbox": "box", "segm": "mask"}


@dataclass
class Chart:
    """A chart, or a note in its place.

    Attributes:
        title: heading.
        picture: chart as a data URI.
        note: text below the chart or in its place.
    """

    title: str
    picture: str | None = None
    note: str = ""


@dataclass
class Evaluation:
    """Accuracy and mistakes of a run's predictions.

    Attributes:
        note: reason why there is no evaluation, else "".
        dataset: name and size of the test data.
        metrics: a row for each task: its name and its metrics.
        classes: a row for each class: its name, number of objects, and AP for each task.
        curves: precision-recall chart of each task.
        matrix: confusion matrix.
        mistakes: heading, note and examples of each kind of mistake.
    """

    note: str = ""
    dataset: str = ""
    metrics: list[list[str]] = field(default_factory=list)
    classes: list[list[str]] = field(default_factory=list)
    curves: list[Chart] = field(default_factory=list)
    matrix: Chart | None = None
    mistakes: list[tuple[str, str, list[Example]]] = field(default_factory=list)


def write_report(
    run: Run, output: Path, num_examples: int = 6, min_score: float = 0.5, min_iou: float = 0.5
) -> None:
    """Write the report as one self-contained HTML page.

    Parts whose files the run lacks are replaced by a note.

    Args:
        run: run to report on.
        output: path of the page; its directory is created if necessary.
        num_examples: number of false negatives, and of false positives, to draw.
        min_score: minimum score of predictions in the confusion matrix, from 0 to 1.
        min_iou: minimum IoU of matching boxes in the confusion matrix, above 0 and at most 1.

    Raises:
        UserError: if one of the numbers is out of range.
    """
    if num_examples < 0:
        raise UserError(f"The number of examples is {num_examples}; it must be 0 or more.")
    if not 0 <= min_score <= 1:
        raise UserError(f"The score threshold is {min_score}; it must be from 0 to 1.")
    if not 0 < min_iou <= 1:
        raise UserError(f"The IoU threshold is {min_iou}; it must be above 0 and at most 1.")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html").render(
        name=run.folder.resolve().name,
        version=__version__,
        facts=run.facts,
        config=run.config_text,
        training=training_charts(run.metrics),
        evaluation=evaluate(run, num_examples, min_score, min_iou),
        metric_names=METRICS,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page, encoding="utf-8")


def training_charts(metrics: Metrics) -> list[Chart]:
    """Draw the charts of metrics.json."""
    if not metrics:
        return [Chart("Losses", note="The run has no metrics.json, so there are no curves.")]
    losses = Chart("Losses", charts.draw_losses(metrics))
    if losses.picture is None:
        losses.note = "metrics.json has no losses."
    rate = Chart("Learning rate", charts.draw_learning_rate(metrics))
    if rate.picture is None:
        rate.note = "metrics.json has no learning rate."
    iterations = charts.evaluated_iterations(metrics)
    ap = Chart("AP over time")
    if len(iterations) > 1:
        ap.picture = charts.draw_ap_over_time(metrics)
    else:
        count = f"one AP, at iteration {iterations[0]:,}" if iterations else "no AP"
        ap.note = f"metrics.json has {count}; set TEST.EVAL_PERIOD to evaluate during training."
    return [losses, rate, ap]


def evaluate(run: Run, num_examples: int, min_score: float, min_iou: float) -> Evaluation:
    """Evaluate the predictions of a run; see :func:`write_report` for the arguments."""
    try:
        detections = read_detections(run.folder, run.cfg)
    except UserError as error:
        return Evaluation(note=str(error))
    tasks = TASKS if detections.has_masks else {"bbox": TASKS["bbox"]}
    accuracy = {name: measure(detections, task) for task, name in tasks.items()}  # type: ignore[arg-type]
    confusion = compare(detections, min_score, min_iou)
    classes = list(detections.categories.values())
    return Evaluation(
        dataset=f"{detections.dataset}: {len(detections.content['images']):,} images, "
        f"{len(detections.content['annotations']):,} objects",
        metrics=[
            [name, *(_number(x) for x in of_task.metrics.values())]
            for name, of_task in accuracy.items()
        ],
        classes=_class_rows(detections, accuracy),
        curves=[
            Chart(f"Precision and recall, {name}", charts.draw_precision_recall(of_task, classes))
            for name, of_task in accuracy.items()
        ],
        matrix=Chart(
            "Confusion matrix",
            charts.draw_confusion(confusion),
            f"Predictions with a score of at least {min_score:g}, matched with objects whose boxes "
            f"have an IoU of at least {min_iou:g}, regardless of class. The last row counts "
            "predictions without an unmatched object, the last column objects without a "
            "prediction.",
        ),
        mistakes=_mistakes(detections, confusion, num_examples, min_score),
    )


def _class_rows(detections: Detections, accuracy: dict[str, Accuracy]) -> list[list[str]]:
    counts = Counter(item["category_id"] for item in detections.content["annotations"])
    return [
        [name, f"{counts[category]:,}", *(_number(task.class_ap[i]) for task in accuracy.values())]
        for i, (category, name) in enumerate(detections.categories.items())
    ]


def _mistakes(
    detections: Detections, confusion: Confusion, number: int, min_score: float
) -> list[tuple[str, str, list[Example]]]:
    if number == 0:
        return []
    sections = []
    for title, mistakes in (
        ("Largest false negatives", confusion.false_negatives),
        ("Highest-scoring false positives", confusion.false_positives),
    ):
        examples: list[Example] = []
        note = f"{min(number, len(mistakes)):,} of {len(mistakes):,}, framed."
        try:
            examples = draw_examples(mistakes[:number], detections, min_score)
        except UserError as error:
            note = str(error)
        sections.append((title, note, examples))
    return sections


def _number(value: float) -> str:
    return "\N{EN DASH}" if np.isnan(value) else f"{value:.1f}"
