"""``panet zoo``: the models with published weights."""

import argparse

from tabulate import tabulate

from panet.checkpoint.published import PUBLISHED, download_folder

HEADERS = ("name", "project", "box AP", "mask AP", "MB", "licence", "cached")


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    rows = [
        [
            model.config,
            model.source,
            model.box_ap,
            model.mask_ap,
            model.megabytes,
            model.licence,
            "yes" if model.cached.is_file() else "no",
        ]
        for model in PUBLISHED.values()
    ]
    print(tabulate(rows, headers=HEADERS, missingval="-"))
    print("\nAP on COCO val2017 as reported by")
    for page in dict.fromkeys(model.page for model in PUBLISHED.values()):
        print(f"  {page}")
    print(f"\nfiles placed by hand: {download_folder()}/NAME, with .pth instead of .yaml")
