#!/usr/bin/env python
"""Take a model's weights, and the names of its classes, out of a checkpoint of a training.

    tools/export_weights.py output/model_final.pth panet.safetensors

What is only needed to train on, such as the optimizer's state, is left out. Nothing in the file is
executed.
"""

import argparse
from pathlib import Path

from panet.checkpoint.checkpoint_file import load_checkpoint, split_checkpoint
from panet.checkpoint.weights import load_safetensors, save_weights
from panet.utils.errors import add_debug_argument, exit_on_user_error


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", type=Path, metavar="IN", help=".pth or .safetensors")
    parser.add_argument("output", type=Path, metavar="OUT", help=".pth or .safetensors")
    add_debug_argument(parser)
    args = parser.parse_args()
    read = load_safetensors if args.input.suffix == ".safetensors" else load_checkpoint
    checkpoint = read(args.input)
    state, _ = split_checkpoint(checkpoint)
    save_weights(args.output, state, checkpoint.get("classes", []))
    print(f"{len(state)} tensors written to {args.output}.")


if __name__ == "__main__":
    with exit_on_user_error():
        main()
