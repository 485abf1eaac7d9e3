#!/usr/bin/env python
"""Train or evaluate PANet. See --help, and the README for examples."""

from detectron2.engine import default_argument_parser

from panet.cli.train import main
from panet.utils.errors import add_debug_argument, exit_on_user_error

if __name__ == "__main__":
    parser = default_argument_parser()
    add_debug_argument(parser)
    parser.set_defaults(quiet=False)
    with exit_on_user_error():
        main(parser.parse_args())
