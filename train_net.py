#!/usr/bin/env python
"""Train or evaluate PANet. See --help, and the README for examples."""

import panet  # noqa: F401  # isort: skip  # first, to silence a warning of PyTorch

import argparse
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from panet import model_zoo
from panet.checkpoint import build_checkpointer
from panet.config import load_config
from panet.data.availability import check_split
from panet.device import check_gpus, keep_freed_memory, limit_cpu_threads
from panet.engine import PANetTrainer
from panet.errors import add_debug_argument, exit_on_input_error


def setup(args: argparse.Namespace) -> CfgNode:
    """The configuration from the file and the command line."""
    if args.config_file:
        args.config_file = model_zoo.find_config_file(args.config_file)
    cfg = load_config(args.config_file, args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="panet")
    return cfg


@exit_on_input_error()
def main(args: argparse.Namespace) -> Any:
    cfg = setup(args)
    for split in ("TEST",) if args.eval_only else ("TRAIN", "TEST"):
        check_split(cfg, split)
    if cfg.MODEL.DEVICE == "cpu":
        limit_cpu_threads(comm.get_local_size())
        keep_freed_memory()
    if args.eval_only:
        model = PANetTrainer.build_model(cfg)
        build_checkpointer(cfg, model, cfg.OUTPUT_DIR).resume_or_load(
            cfg.MODEL.WEIGHTS, resume=args.resume
        )
        results = PANetTrainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = PANetTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    parser = default_argument_parser()
    add_debug_argument(parser)
    arguments = parser.parse_args()
    with exit_on_input_error():
        check_gpus(arguments.num_gpus)
        launch(
            main,
            arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(arguments,),
        )
