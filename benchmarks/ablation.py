"""Compares PANet with Mask R-CNN, one component after another.

Every row is the same configuration with other heads or another pyramid, and is trained once with
each seed: from the same random weights where rows have the same layers, on the same images in the
same order, for the same number of iterations. A training that was stopped goes on, and one that is
finished is never repeated. The same command may run several times at once, on several cores or
GPUs: each takes what no other has begun. What there is so far is in ablation.csv, one line a
training, ablation.md, tables with one line a row, and ablation.png.

Further configuration keys and their values, for all rows, go last, after "--".
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

KEYS_OF_ARGUMENTS = {
    "MODEL.DEVICE": "--device",
    "OUTPUT_DIR": "--output-dir",
    "SEED": "--seeds",
    "SOLVER.AMP.DTYPE": "--dtype",
    "SOLVER.AMP.ENABLED": "--dtype",
    "SOLVER.MAX_ITER": "--iterations",
}


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    default_config, default_output = "nuclei/panet_R18_nuclei.yaml", "output/ablation"
    parser.add_argument(
        "--config-file",
        default=default_config,
        metavar="FILE",
        help=f"name or path; default: {default_config}",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path(default_output),
        metavar="DIR",
        help=f"default: {default_output}",
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=ROWS,
        default=list(ROWS),
        metavar="ROW",
        help=f"default: all of {', '.join(ROWS)}",
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="SEED", help="default: 1 2 3"
    )
    parser.add_argument("--iterations", type=int, help="default: those of the configuration")
    parser.add_argument("--device", default=default_device)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--keep-weights", action="store_true", help="of finished trainings, as model_final.pth"
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE")
    add_debug_argument(parser)
    args = parser.parse_args()
    if min(args.seeds) < 0:
        parser.error("--seeds must not be negative, which stands for random ones")
    if args.iterations is not None and args.iterations < 1:
        parser.error("--iterations must be at least 1")
    return args


def check_keys(keys: Sequence[str]) -> None:
    """Check that keys of the command line have an effect.

    Raises:
        UserError: if a row or an argument decides one of them.
    """
    of_rows = {key for row in ROWS.values() for key in row.changes}
    for key in keys:
        if key in of_rows:
            raise UserError(f"{key} is among what the rows differ in; choose rows with --rows.")
        if key in KEYS_OF_ARGUMENTS:
            raise UserError(f"{key} is set by {KEYS_OF_ARGUMENTS[key]}; leave it out.")


def read_experiment(args: argparse.Namespace) -> Experiment:
    """What the command line asks for.

    Raises:
        UserError: if there is no such configuration, it cannot be compared, a key that is given
            has no effect, or the CPU cannot compute in ``--dtype``.
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
    """Train what is not there yet, and write what there is."""
    args = parse_arguments()
    experiment = read_experiment(args)
    experiment.check()
    if torch.device(args.device).type == "cpu":
        keep_freed_memory()
    # All rows of a seed before the next seed, to have something to compare early.
    runs = [(ROWS[name], seed) for seed, name in product(args.seeds, args.rows)]
    with tqdm(runs, "trainings") as bar:
        for row, seed in bar:
            bar.set_postfix_str(f"{row.name}, seed {seed}")
            experiment.run(row, seed)
            # Processes that share the trainings would otherwise write the same files at once.
            with FileLock(args.output_dir / "lock"):
                if results := experiment.results():
                    write_comparison(results, args.output_dir)
    table = args.output_dir / "ablation.md"
    print(table.read_text() if table.exists() else "Other processes are at all of these.")


if __name__ == "__main__":
    main()
