"""``panet convert-weights``: weights from checkpoints, also of other systems."""

import argparse

from panet.checkpoint.checkpoint_file import load_checkpoint, split_checkpoint
from panet.checkpoint.convert.converter import convert_file
from panet.checkpoint.convert.systems import SOURCES
from panet.checkpoint.weights import FORMATS, load_safetensors, save_weights
from panet.config_files import find_config_file
from panet.utils.errors import UserError


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    if args.output.suffix not in FORMATS:
        raise UserError(f"{args.output} must end in one of {', '.join(FORMATS)}.")
    if args.source is None:
        if args.config_file or args.opts:
            raise UserError("--config-file and --opts are for conversions; give --from too.")
        extract(args)
    else:
        convert(args)


def extract(args: argparse.Namespace) -> None:
    """Write the weights and class names of a checkpoint of this project or detectron2."""
    read = load_safetensors if args.input.suffix == ".safetensors" else load_checkpoint
    checkpoint = read(args.input)
    state, _ = split_checkpoint(checkpoint)
    save_weights(args.output, state, checkpoint.get("classes", []))
    print(f"{len(state)} tensors written to {args.output}.")


def convert(args: argparse.Namespace) -> None:
    """Convert a checkpoint of another system."""
    config_file = find_config_file(args.config_file) if args.config_file else ""
    conversion = convert_file(args.input, SOURCES[args.source], config_file, args.opts)
    save_weights(args.output, conversion.state)
    for line in conversion.dropped:
        print(f"dropped  {line}")
    options = " ".join([*conversion.overrides, "MODEL.WEIGHTS", str(args.output)])
    print(f"{len(conversion.state)} tensors written to {args.output}. To evaluate them:")
    print(f"  panet eval --config-file {conversion.config_file} {options}")
