#!/usr/bin/env python
"""Convert stage1_train of the 2018 Data Science Bowl to the datasets nuclei_train and nuclei_val.

SOURCE is the unpacked stage1_train.zip of bbbc.broadinstitute.org/BBBC038: a folder per image, with
the image in images/ and a mask per nucleus in masks/. OUT gets train.json and val.json in COCO
format, and the RGB images in train/ and val/. Make OUT the folder "nuclei" in
$DETECTRON2_DATASETS.

An image's id alone decides its split: "val" if the first 8 bytes of the id's SHA-256, as a fraction
of their range, are below --val-share. --split reads the splits from a file instead;
projects/nuclei/split.csv is that of the published results.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from stage1 import (
    SPLITS,
    ConvertedImage,
    Source,
    choose_split,
    convert,
    find_sources,
    listed_split,
    read_splits,
    to_coco,
    write_json,
)
from tqdm import tqdm

from panet.utils.errors import UserError, add_debug_argument, exit_on_user_error


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="SOURCE")
    parser.add_argument("output", type=Path, metavar="OUT")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--val-share", type=float, default=0.2, help="default: 0.2")
    which.add_argument(
        "--split",
        type=Path,
        metavar="FILE",
        help='CSV with the columns "image" (prefixes of ids) and "split" (train or val); other '
        "images are left out",
    )
    add_debug_argument(parser)
    return parser.parse_args()


def choose_splits(args: argparse.Namespace, sources: Sequence[Source]) -> dict[str, str]:
    """Map image ids to splits; images without a split are left out.

    Raises:
        UserError: if a split has no images.
    """
    if args.split is None:
        split_of = {source.id: choose_split(source.id, args.val_share) for source in sources}
        cause, remedy = f"--val-share {args.val_share}", "another share between 0 and 1"
    else:
        listed = read_splits(args.split)
        found = ((source.id, listed_split(source.id, listed)) for source in sources)
        split_of = {image_id: split for image_id, split in found if split is not None}
        cause, remedy = f"--split {args.split}", "a file that lists some of them"
        if len(split_of) < len(listed):
            print(f"{args.split} lists {len(listed):,} images; {len(split_of):,} are there.")
    for split in SPLITS:
        if split not in split_of.values():
            raise UserError(
                f"With {cause}, none of the {len(sources)} images is in the split {split}; give "
                f"{remedy}."
            )
    return split_of


@exit_on_user_error()
def main() -> None:
    args = parse_arguments()
    sources = find_sources(args.source)
    split_of = choose_splits(args, sources)
    for split in SPLITS:
        (args.output / split).mkdir(parents=True, exist_ok=True)
        # Written last, so an unfinished folder has none.
        (args.output / f"{split}.json").unlink(missing_ok=True)
    converted: dict[str, list[ConvertedImage]] = {split: [] for split in SPLITS}
    for source in tqdm([source for source in sources if source.id in split_of], "images"):
        split = split_of[source.id]
        converted[split].append(convert(source, args.output / split))
    for split, images in converted.items():
        content = to_coco(split, images)
        write_json(content, args.output / f"{split}.json")
        empty = sum(image.empty_masks for image in images)
        print(
            f"{split}: {len(images):,} images, {len(content['annotations']):,} nuclei"
            + (f"; {empty:,} empty masks are left out" if empty else "")
        )


if __name__ == "__main__":
    main()
