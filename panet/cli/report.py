"""``panet report``: a run as one HTML page."""

import argparse

from panet.reporting import read_run, write_report


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    run = read_run(args.run_dir, args.opts)
    output = args.output or args.run_dir / "report.html"
    write_report(run, output, args.num_examples, args.score_threshold, args.iou)
    print(output)
