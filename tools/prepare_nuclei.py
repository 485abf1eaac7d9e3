#!/usr/bin/env python
"""Make the datasets nuclei_train and nuclei_val of the 2018 Data Science Bowl's stage1_train.

SOURCE is the folder that stage1_train.zip unpacks to; it comes from bbbc.broadinstitute.org/BBBC038
and has a folder for each image, with the image in images/ and one mask a nucleus in masks/. OUT
gets train.json and val.json in COCO's format, and the images as RGB in train/ and val/; it is
found as the folder nuclei in the one that the environment variable DETECTRON2_DATASETS names.

The split depends on an image's id alone: it is for validation if the first 8 bytes of the id's
SHA-256 are below --val-share of all their values. The same SOURCE gives the same files.
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from panet.data.nuclei import (
    SPLITS,
    ConvertedImage,
    choose_split,
    convert,
    find_sources,
    to_coco,
    write_json,
)
from panet.errors import InputError, add_debug_argument, exit_on_input_error


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="SOURCE")
    parser.add_argument("output", type=Path, metavar="OUT")
    parser.add_argument("--val-share", type=float, default=0.2, help="default: 0.2")
    add_debug_argument(parser)
    return parser.parse_args()


@exit_on_input_error()
def main() -> None:
    args = parse_arguments()
    sources = find_sources(args.source)
    split_of = {source.id: choose_split(source.id, args.val_share) for source in sources}
    for split in SPLITS:
        if split not in split_of.values():
            raise InputError(
                f"With --val-share {args.val_share}, none of the {len(sources)} images is in the "
                f"split {split}; give another share between 0 and 1."
            )
        (args.output / split).mkdir(parents=True, exist_ok=True)
        # They are written last, so that an unfinished folder has none.
        (args.output / f"{split}.json").unlink(missing_ok=True)
    converted: dict[str, list[ConvertedImage]] = {split: [] for split in SPLITS}
    for source in tqdm(sources, "images"):
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
