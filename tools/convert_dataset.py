#!/usr/bin/env python
"""Convert annotations of other programs to a COCO JSON file, which DATASETS.OWN takes.

labelme   IN is the folder of the JSON files; the images are where these say, or in --images.
voc       IN is the folder of the XML files, with <polygon> elements or boxes alone; the images are
          in --images, by default JPEGImages beside it.
yolo      IN is the folder of the label files, with polygons or boxes; the images are in --images,
          by default where "images" replaces "labels" in IN. The classes are those of data.yaml.

Sub-folders are read too. File names in OUT.json begin in the folder of images. Masks become RLE.
Needs the package supervision.
"""

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
from panet.utils.errors import UserError, add_debug_argument, exit_on_user_error


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="source", required=True, choices=("labelme", "voc", "yolo"))
    parser.add_argument("input", type=Path, metavar="IN")
    parser.add_argument("output", type=Path, metavar="OUT.json")
    parser.add_argument("--images", type=Path, help="the folder of images")
    parser.add_argument("--class-file", type=Path, help="YOLO's data.yaml, if it is not above IN")
    parser.add_argument(
        "--box-masks", action="store_true", help="take boxes for masks where there is no polygon"
    )
    add_debug_argument(parser)
    return parser.parse_args()


@exit_on_user_error()
def main() -> None:
    args = parse_arguments()
    for folder in (args.input, args.images):
        if folder is not None and not folder.is_dir():
            raise UserError(f"There is no folder {folder}.")
    items, images = find_items(args.source, args.input, args.images)
    if not any(item.annotation for item in items):
        raise UserError(f"There are no {args.source} annotations of images in {images}.")
    class_file, classes = None, []
    if args.source == "yolo":
        class_file = args.class_file or find_class_file(args.input)
        classes = yolo_classes(class_file)
    converted = []
    for item in tqdm(items, "images"):
        converted.append(convert_item(args.source, item, args.box_masks, class_file))
    content = to_coco(converted, classes)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    partial = args.output.with_name(f"{args.output.name}.partial")
    partial.write_text(json.dumps(content))
    partial.replace(args.output)
    for remark in sorted({remark for image in converted for remark in image.remarks}):
        print(f"warning    {remark}")
    annotations = content["annotations"]
    masks = sum("segmentation" in annotation for annotation in annotations)
    print(
        f"{len(items):,} images, {len(annotations):,} objects of {len(content['categories'])} "
        f"classes, {masks:,} with masks"
    )
    split = "DATASETS.OWN.TRAIN"
    print(f"use it     {split}.JSON {args.output} {split}.IMAGES {images}")


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
        raise UserError(f"{folder} has no part named labels; give the images with --images.")
    last = len(parts) - 1 - parts[::-1].index("labels")
    return Path(*parts[:last], "images", *parts[last + 1 :])


if __name__ == "__main__":
    main()
