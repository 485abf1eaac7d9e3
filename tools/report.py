#!/usr/bin/env python
"""Report on a run: one HTML page, which opens from the disk without a network.

It has the curves of the training, COCO's metrics, precision-recall curves, the confusion matrix,
the largest misses and most confident false alarms on their images, and the configuration. What the
run lacks is left out.
"""

import argparse
from pathlib import Path

from panet.reporting import read_run, write_report
from panet.utils.errors import exit_on_user_error


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=Path, help="the OUTPUT_DIR of a run")
    parser.add_argument("--output", type=Path, help="the page; by default report.html in RUN_DIR")
    parser.add_argument(
        "--num-examples", type=int, default=6, help="misses and false alarms to draw, of each"
    )
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.5,
        help="least score of predictions in the confusion matrix and in the pictures",
    )
    parser.add_argument(
        "--iou",
        type=float,
        default=0.5,
        help="of boxes that belong together in the confusion matrix",
    )
    parser.add_argument(
        "opts",
        nargs="*",
        help="configuration KEY VALUE pairs, such as DATASETS.TEST \"('shapes_val',)\"",
    )
    return parser.parse_intermixed_args()


@exit_on_user_error()
def main() -> None:
    args = parse_arguments()
    run = read_run(args.run_dir, args.opts)
    output = args.output or args.run_dir / "report.html"
    write_report(run, output, args.num_examples, args.score_threshold, args.iou)
    print(output)


if __name__ == "__main__":
    main()
