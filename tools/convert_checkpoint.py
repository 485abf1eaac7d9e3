#!/usr/bin/env python
"""Convert a checkpoint of another system that trains PANet or its neck into this project's.

    tools/convert_checkpoint.py --from panet-pytorch e2e_panet_R-50-FPN_2x_mask.pth panet.pth
    tools/convert_checkpoint.py --from mmdet faster_rcnn_r50_pafpn_1x_coco.pth pafpn.pth

Nothing in the file is executed. Whatever is not taken over is named, and nothing is written unless
the result fills the model exactly.
"""

import argparse
from pathlib import Path

from panet.checkpoint.convert.converter import convert_file
from panet.checkpoint.convert.systems import SOURCES
from panet.checkpoint.weights import FORMATS, save_weights
from panet.utils.errors import UserError, add_debug_argument, exit_on_user_error


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--from", dest="source", required=True, choices=sorted(SOURCES), help="the other system"
    )
    parser.add_argument("input", type=Path, metavar="IN")
    parser.add_argument(
        "output", type=Path, metavar="OUT", help="what to write, .pth or .safetensors"
    )
    parser.add_argument(
        "--config-file", default="", help="of its model, if it is not one of the published ones"
    )
    add_debug_argument(parser)
    parser.add_argument("opts", nargs="*", help="configuration KEY VALUE pairs")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.output.suffix not in FORMATS:
        raise UserError(f"{args.output} must end in one of {', '.join(FORMATS)}.")
    conversion = convert_file(args.input, SOURCES[args.source], args.config_file, args.opts)
    save_weights(args.output, conversion.state)
    for line in conversion.dropped:
        print(f"dropped  {line}")
    options = " ".join([*conversion.overrides, "MODEL.WEIGHTS", str(args.output)])
    print(f"{len(conversion.state)} tensors written to {args.output}. To evaluate them:")
    print(f"  train_net.py --eval-only --config-file {conversion.config_file} {options}")


if __name__ == "__main__":
    with exit_on_user_error():
        main()
