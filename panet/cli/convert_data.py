"""``panet convert-data``: annotations of other programs as a COCO JSON file."""

import argparse
import json
from pathlib import Path

from tqdm import tqdm

from panet.data.annotation_formats import (
    Item,
    convert_item,
    find_by_stem,
    find_class_file,
    find_labelme,
    to_coco,
    yolo_classes,
)
from panet.utils.atomic import open_atomically
from panet.utils.errors import UserError


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    items, images = find_items(args.source, args.input, args.images)
    if not any(item.annotation for item in items):
        raise UserError(f"There are no {args.source} annotations of images in {images}.")
    class_file, classes = None, []
    if args.source == "yolo":
        class_file = args.class_file or find_class_file(args.input)
        classes = yolo_classes(class_file)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    if args.output.is_dir():
        raise UserError(f"{args.output} is a folder; give the JSON file to write.")
    converted = []
    for item in tqdm(items, "images", disable=None):
        converted.append(convert_item(args.source, item, args.box_masks, class_file))
    content = to_coco(converted, classes)
    with open_atomically(args.output, "w") as stream:
        json.dump(content, stream)
    for remark in sorted({remark for image in converted for remark in image.remarks}):
        print(f"warning    {remark}")
    annotations = content["annotations"]
    masks = sum("segmentation" in annotation for annotation in annotations)
    print(
        f"{len(items):,} images, {len(annotations):,} objects of {len(content['categories'])} "
        f"classes, {masks:,} with masks"
    )
    keys = [f"DATASETS.OWN.TRAIN.{key}" for key in ("JSON", "IMAGES")]
    print(f"to train   {keys[0]} {args.output} {keys[1]} {images}")


def find_items(source: str, folder: Path, images: Path | None) -> tuple[list[Item], Path]:
    """What to convert, and the folder that the file names begin in."""
    if source == "labelme":
        return find_labelme(folder, images), images or folder
    if images is None:
        images = folder.parent / "JPEGImages" if source == "voc" else beside_labels(folder)
        if not images.is_dir():
            raise UserError(f"There is no folder {images}; give the images with --images.")
    return find_by_stem(folder, images, ".xml" if source == "voc" else ".txt"), images


def beside_labels(folder: Path) -> Path:
    """The folder of YOLO's images: where the last "labels" of a path is "images"."""
    parts = list(folder.parts)
    if "labels" not in parts:
        raise UserError(f"{folder} is not in a folder named labels; give --images.")
    last = len(parts) - 1 - parts[::-1].index("labels")
    return Path(*parts[:last], "images", *parts[last + 1 :])
