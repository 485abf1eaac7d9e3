"""``panet check``: defects and statistics of datasets in COCO's format."""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data import Metadata, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.utils.visualizer import Visualizer
from matplotlib.figure import Figure
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from panet.config import load_config
from panet.config_files import find_config_file
from panet.data.coco_file import category_names, read_coco_json
from panet.data.custom import custom_datasets
from panet.data.image_checks import CheckedImage, check_images, duplicated_content
from panet.data.json_checks import (
    DatasetError,
    Defect,
    check_categories,
    check_json,
)
from panet.data.summary import (
    QUANTILES,
    Sizes,
    Summary,
    ids_with_errors,
    sample_records,
    summarize_dataset,
)
from panet.prepare import prepare
from panet.utils.errors import UserError

SHOWN = 20


class Source(NamedTuple):
    """A dataset to check.

    Attributes:
        name: name to print.
        json_file: file in COCO's format.
        image_root: folder that file names are relative to.
        with_masks: whether all objects must have masks; None if they must when some have.
        classes: names of the classes that are used; () for all.
        may_lack_annotations: whether "annotations" may be missing, as in test data.
    """

    name: str
    json_file: Path
    image_root: Path
    with_masks: bool | None = None
    classes: tuple[str, ...] = ()
    may_lack_annotations: bool = True


class Checked(NamedTuple):
    """A dataset, its parsed JSON file, its defects and its images."""

    source: Source
    content: dict[str, Any]
    defects: list[Defect]
    images: list[CheckedImage]


def main(args: argparse.Namespace) -> int:
    """Run the command; 1 if there are errors."""
    try:
        sources = find_sources(args)
    except DatasetError as error:
        return report(error.defects, args.output_dir)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    checked = [check(source, args.processes) for source in sources]
    defects = [defect for dataset in checked for defect in dataset.defects]
    for other in checked[1:]:
        defects += compare(checked[0], other)
    for dataset in checked:
        show(dataset, args.output_dir, args.samples)
    return report(defects, args.output_dir)


def find_sources(args: argparse.Namespace) -> list[Source]:
    """Return the datasets that the arguments name, the training set first."""
    if args.config_file or args.opts:
        if args.json or args.images or args.against:
            raise UserError("Give either a configuration or --json and --images, not both.")
        return configured(args.config_file, args.opts)
    if not args.json or not args.images:
        raise UserError("Give --json and --images, or --config-file.")
    sources = [Source("data", args.json, args.images)]
    if args.against:
        sources.append(Source("against", *args.against))
    for source in sources:
        if not source.json_file.is_file():
            raise UserError(f"There is no file {source.json_file}.")
        if not source.image_root.is_dir():
            raise UserError(f"There is no folder {source.image_root}.")
    return sources


def configured(config_file: str | None, opts: Sequence[str]) -> list[Source]:
    cfg = prepare(load_config(find_config_file(config_file) if config_file else "", opts))
    classes = tuple(cfg.DATASETS.OWN.CLASSES)
    sources = [
        Source(
            own.name, own.json_file, own.image_root, own.with_masks, classes, own.split != "TRAIN"
        )
        for own in custom_datasets(cfg)
    ]
    if not sources:
        for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
            metadata = MetadataCatalog.get(name)
            files = metadata.get("json_file"), metadata.get("image_root")
            if metadata.get("evaluator_type") == "coco" and all(files):
                json_file, image_root = map(Path, files)
                sources.append(Source(name, json_file, image_root, cfg.MODEL.MASK_ON))
    if not sources:
        raise UserError("The configuration has no data in COCO's format; give DATASETS.OWN.")
    for source in sources:
        if not source.json_file.is_file():
            raise UserError(f"Dataset {source.name!r} has no file {source.json_file}.")
    return sources


def check(source: Source, processes: int) -> Checked:
    file = str(source.json_file)
    try:
        content = read_coco_json(source.json_file)
    except UserError as error:
        return Checked(source, {}, [Defect("error", file, "", str(error))], [])
    with_masks = source.with_masks
    if with_masks is None:
        annotations = content.get("annotations")
        found = annotations if isinstance(annotations, list) else []
        with_masks = any(isinstance(each, dict) and each.get("segmentation") for each in found)
    defects = check_json(content, file, with_masks, source.classes, source.may_lack_annotations)
    if content.get("annotations") is None and not any(each.severity == "error" for each in defects):
        what = "has no 'annotations'; it can be predicted, but neither trained nor evaluated on"
        defects.append(Defect("warning", file, "", what))
    images: list[CheckedImage] = []
    if isinstance(content.get("images"), list):
        reading = check_images(content, source.image_root, processes)
        images = list(
            tqdm(reading, f"images of {source.name}", len(content["images"]), disable=None)
        )
    defects += [defect for image in images for defect in image.defects]
    defects += duplicated_content(images, images, file, file)
    return Checked(source, content, defects, images)


def compare(train: Checked, other: Checked) -> list[Defect]:
    """Find images that are in both datasets, by their content."""
    files = str(train.source.json_file), str(other.source.json_file)
    return list(duplicated_content(train.images, other.images, *files))


def show(dataset: Checked, output_dir: Path, samples: int) -> None:
    """Print a summary of a dataset, and draw its class histogram and some images."""
    source, content = dataset.source, dataset.content
    if check_categories(content, ""):
        return  # its categories are invalid, so there is nothing to count
    bad = ids_with_errors(dataset.defects)
    summary = summarize_dataset(content, bad)
    print_summary(source, summary)
    chart = output_dir / f"classes_{source.name}.png"
    draw_classes(summary.classes, source.name, chart)
    print(f"classes    {chart}")
    folder = output_dir / "samples" / source.name
    names = list(category_names(content).values())
    draw_samples(sample_records(content, source.image_root, samples, bad), names, folder)
    print(f"samples    {folder}\n")


def print_summary(source: Source, summary: Summary) -> None:
    print(
        f"\n{source.name}: {source.json_file}\n"
        f"{summary.images:,} images, {summary.empty_images:,} of them without objects; "
        f"{sum(summary.classes.values()):,} annotations of {len(summary.classes)} classes, "
        f"{summary.crowds:,} of them crowds\n"
    )
    quantiles = [f"{100 * quantile:g} %" for quantile in QUANTILES]
    headers = ["", "small", "medium", "large", *quantiles]
    rows = [size_row("boxes", summary.boxes), size_row("masks", summary.masks)]
    print(tabulate(rows, headers=headers, floatfmt=".0f", intfmt=","))
    print("small: below 32 x 32 pixels, large: above 96 x 96; then quantiles of the square root")
    print("of the area, in pixels\n")


def size_row(what: str, sizes: Sizes) -> list[Any]:
    return [what, sizes.small, sizes.medium, sizes.large, *sizes.quantiles]


def draw_classes(counts: dict[str, int], title: str, path: Path) -> None:
    """A bar for each class, the most frequent one at the top."""
    ordered = sorted(counts.items(), key=lambda item: item[1])
    figure = Figure(figsize=(7, 1.2 + 0.22 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(range(len(ordered)), [number for _, number in ordered])
    axes.set_yticks(range(len(ordered)), [name for name, _ in ordered])
    axes.bar_label(bars, padding=2)
    axes.set_xscale("symlog")
    axes.margins(x=0.1, y=0.5 / max(len(ordered), 1))
    axes.set_xlabel("annotations")
    axes.set_title(title)
    figure.savefig(path, dpi=100)


def draw_samples(records: Sequence[dict[str, Any]], classes: list[str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    metadata = Metadata(thing_classes=classes)
    for number, record in enumerate(tqdm(records, "samples", leave=False, disable=None), 1):
        drawing = Visualizer(read_image(record["file_name"], "RGB"), metadata)
        picture = drawing.draw_dataset_dict(record).get_image()
        Image.fromarray(picture).save(folder / f"{number:03d}.jpg")


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def report(defects: Sequence[Defect], output_dir: Path) -> int:
    """Print the defects, errors first, write all of them, and return the exit status."""
    ordered = sorted(defects, key=lambda defect: defect.severity)
    output_dir.mkdir(parents=True, exist_ok=True)
    path = output_dir / "defects.csv"
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(Defect._fields)
        writer.writerows(ordered)
    for severity in ("error", "warning"):
        found = [defect for defect in ordered if defect.severity == severity]
        for defect in found[:SHOWN]:
            print(f"{severity:8} {defect}")
        if len(found) > SHOWN:
            print(f"{severity:8} and {len(found) - SHOWN:,} more")
    errors = sum(defect.severity == "error" for defect in defects)
    print(f"{count(errors, 'error')}, {count(len(defects) - errors, 'warning')}")
    print(f"defects    {path}")
    return 1 if errors else 0
