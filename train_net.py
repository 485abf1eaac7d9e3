#!/usr/bin/env python
"""Train or evaluate PANet. See --help, and the README for examples."""

import argparse
from typing import Any

from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from panet import model_zoo
from panet.compat.detectron2_launch import launch
from panet.config import load_config
from panet.engine import LazyTrainer, PANetTrainer, ResumableTrainer
from panet.lazy_config import load_lazy_config
from panet.prepare import prepare
from panet.utils.device import check_gpus, keep_freed_memory, limit_cpu_threads
from panet.utils.errors import add_debug_argument, exit_on_user_error


def setup(args: argparse.Namespace) -> tuple[type[ResumableTrainer], Any]:
    """The configuration from the file and the command line, and the trainer for its kind."""
    trainer_class: type[ResumableTrainer] = PANetTrainer
    if args.config_file:
        args.config_file = model_zoo.find_config_file(args.config_file)
    if args.config_file.endswith(".py"):
        trainer_class = LazyTrainer
        cfg = load_lazy_config(args.config_file, args.opts)
    else:
        cfg = prepare(load_config(args.config_file, args.opts))
        cfg.freeze()
    default_setup(cfg, args)
    output_dir = trainer_class.read_settings(cfg).output_dir
    setup_logger(output_dir, distributed_rank=comm.get_rank(), name="panet")
    return trainer_class, cfg


@exit_on_user_error()
def main(args: argparse.Namespace) -> Any:
    trainer_class, cfg = setup(args)
    trainer_class.check_data(cfg, ("TEST",) if args.eval_only else ("TRAIN", "TEST"))
    if trainer_class.read_settings(cfg).device == "cpu":
        limit_cpu_threads(comm.get_local_size())
        keep_freed_memory()
    if args.eval_only:
        return trainer_class.evaluate(cfg, resume=args.resume)
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    parser = default_argument_parser()
    add_debug_argument(parser)
    arguments = parser.parse_args()
    with exit_on_user_error():
        check_gpus(arguments.num_gpus)
        launch(
            main,
            arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(arguments,),
        )
