"""``panet train``, ``panet eval`` and ``train_net.py``."""

import argparse
from typing import Any

from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from panet.cli import console
from panet.compat.detectron2_launch import launch
from panet.config import load_config
from panet.config_files import find_config_file
from panet.engine import LazyTrainer, PANetTrainer
from panet.lazy_config import load_lazy_config
from panet.prepare import prepare
from panet.utils.device import (
    check_gpus,
    check_process_group,
    keep_freed_memory,
    limit_cpu_threads,
)
from panet.utils.errors import exit_on_user_error


def main(args: argparse.Namespace) -> None:
    """Train, or evaluate if ``args.eval_only``, in ``args.num_gpus`` processes.

    Args:
        args: as of detectron2's ``default_argument_parser``; ``quiet`` to print a summary, the
            progress and the metrics instead of detectron2's log.
    """
    check_gpus(args.num_gpus)
    launch(
        run,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


@exit_on_user_error()
def run(args: argparse.Namespace) -> Any:
    """Train or evaluate in this process."""
    name = args.config_file
    trainer_class, cfg = setup(args)
    trainer_class.check_data(cfg, ("TEST",) if args.eval_only else ("TRAIN", "TEST"))
    if trainer_class.read_settings(cfg).device == "cpu":
        limit_cpu_threads(comm.get_local_size())
        keep_freed_memory()
    if not args.quiet:
        return train_or_evaluate(args, trainer_class, cfg, name)
    with console.without_stdout():
        results = train_or_evaluate(args, trainer_class, cfg, name)
    if comm.is_main_process():
        console.print_results(results)
    return results


def train_or_evaluate(
    args: argparse.Namespace, trainer_class: type[PANetTrainer], cfg: Any, name: str
) -> dict[str, Any] | None:
    """Train or evaluate the configuration ``name``; the metrics, on the main process."""
    if args.eval_only:
        return trainer_class.evaluate(cfg, resume=args.resume)
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=args.resume)
    if args.quiet and comm.is_main_process():
        console.print_run(name, trainer)
        console.show_progress(trainer)
    results: dict[str, Any] | None = trainer.train()
    if args.quiet and comm.is_main_process():
        console.print_run_end(trainer)
    return results


def setup(args: argparse.Namespace) -> tuple[type[PANetTrainer], Any]:
    """The configuration of the command line, and the trainer for its kind."""
    trainer_class = PANetTrainer
    if args.config_file:
        args.config_file = find_config_file(args.config_file)
    if args.config_file.endswith(".py"):
        trainer_class = LazyTrainer
        cfg = LazyTrainer.prepare(load_lazy_config(args.config_file, args.opts))
    else:
        cfg = prepare(load_config(args.config_file, args.opts))
        cfg.freeze()
    settings = trainer_class.read_settings(cfg)
    if not args.eval_only:
        check_process_group(settings.device)
    output_dir = settings.output_dir
    if args.quiet:
        console.log_to_file(output_dir)
    default_setup(cfg, args)
    setup_logger(output_dir, distributed_rank=comm.get_rank(), name="panet")
    return trainer_class, cfg
