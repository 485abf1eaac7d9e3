"""Compare PANet with Mask R-CNN, one component at a time.

Each row is the same configuration with other heads or another pyramid. It is trained once per seed,
for the same number of iterations on the same images in the same order; rows start from the same
random weights wherever they have the same layers. Interrupted trainings resume, and finished ones
are not repeated. To use several cores or GPUs, start the same command several times: each process
takes trainings that no other process has started. The results so far are in ablation.csv (a line
per training), ablation.md (tables with a line per row) and ablation.png.

Additional configuration keys and values, for all rows, go last, after "--".
"""

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
from comparison import write_comparison
from components import ROWS
from experiment import Experiment
from filelock import FileLock
from tqdm import tqdm

from panet.model_zoo import find_config_file
from panet.utils.cpu import has_fast_bfloat16
from panet.utils.device import keep_freed_memory
from panet.utils.errors import UserError, add_debug_argument, exit_on_user_error

ARGUMENT_OF_KEY = {
    "MODEL.DEVICE": "--device",
    "OUTPUT_DIR": "--output-dir",
    "SEED": "--seeds",
    "SOLVER.AMP.DTYPE": "--dtype",
    "SOLVER.AMP.ENABLED": "--dtype",
    "SOLVER.MAX_ITER": "--iterations",
}


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, default = parser.add_argument, "default: %(default)s"
    config_file, output = "nuclei/panet_R18_nuclei.yaml", Path("output/ablation")
    add("--config-file", default=config_file, metavar="FILE", help=f"path or name; {default}")
    add("--output-dir", type=Path, default=output, metavar="DIR", help=default)
    all_rows = f"default: all of {', '.join(ROWS)}"
    add("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=all_rows)
    seeds = [1, 2, 3]
    add("--seeds", nargs="+", type=int, default=seeds, metavar="SEED", help="default: 1 2 3")
    add("--iterations", type=int, help="default: SOLVER.MAX_ITER of the configuration")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help=default)
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help=default)
    add("--keep-weights", action="store_true", help="keep model_final.pth of finished trainings")
    add("opts", nargs="*", metavar="KEY VALUE")
    add_debug_argument(parser)
    args = parser.parse_args()
    if min(args.seeds) < 0:
        parser.error("--seeds must not be negative: a negative seed is a random one")
    if args.iterations is not None and args.iterations < 1:
        parser.error("--iterations must be at least 1")
    return args


def check_keys(keys: Sequence[str]) -> None:
    """Check that keys from the command line have an effect.

    Raises:
        UserError: if a row or another argument sets one of them.
    """
    row_keys = {key for row in ROWS.values() for key in row.changes}
    for key in keys:
        if key in row_keys:
            raise UserError(f"{key} is set by the rows; choose rows with --rows.")
        if key in ARGUMENT_OF_KEY:
            raise UserError(f"{key} is set by {ARGUMENT_OF_KEY[key]}; remove it.")


def build_experiment(args: argparse.Namespace) -> Experiment:
    """Build the experiment that the command line describes.

    Raises:
        UserError: if the configuration does not exist or does not evaluate masks on one dataset, a
            key has no effect, or the CPU does not support ``--dtype``.
    """
    on_cpu = torch.device(args.device).type == "cpu"
    if args.dtype == "bfloat16" and on_cpu and not has_fast_bfloat16():
        raise UserError("--dtype is bfloat16, for which this CPU has no instructions.")
    check_keys(args.opts[::2])
    overrides = ["TEST.NUM_PICTURES", "0", *args.opts, "MODEL.DEVICE", args.device]
    overrides += ["SOLVER.AMP.ENABLED", str(args.dtype == "bfloat16")]
    overrides += ["SOLVER.AMP.DTYPE", "bfloat16"]
    if args.iterations is not None:
        overrides += ["SOLVER.MAX_ITER", str(args.iterations)]
    config_file = find_config_file(args.config_file)
    experiment = Experiment(config_file, tuple(overrides), args.output_dir, args.keep_weights)
    cfg = experiment.load_config(next(iter(ROWS.values())), seed=0)
    if len(cfg.DATASETS.TEST) != 1 or not cfg.MODEL.MASK_ON:
        raise UserError(
            f"{config_file} cannot be compared by box and mask AP; it needs MODEL.MASK_ON True and "
            "one dataset in DATASETS.TEST."
        )
    return experiment


@exit_on_user_error()
def main() -> None:
    """Run the missing trainings and write the comparison after each one."""
    args = parse_arguments()
    experiment = build_experiment(args)
    experiment.check()
    if torch.device(args.device).type == "cpu":
        keep_freed_memory()
    # All rows of a seed before the next seed, so that rows can be compared early.
    runs = [(ROWS[name], seed) for seed, name in product(args.seeds, args.rows)]
    with tqdm(runs, "trainings") as bar:
        for row, seed in bar:
            bar.set_postfix_str(f"{row.name}, seed {seed}")
            experiment.run(row, seed)
            # Keeps processes that share the trainings from writing the same files at once.
            with FileLock(args.output_dir / "lock"):
                if results := experiment.results():
                    write_comparison(results, args.output_dir)
    table = args.output_dir / "ablation.md"
    print(table.read_text() if table.exists() else "Other processes run all of these trainings.")


if __name__ == "__main__":
    main()
