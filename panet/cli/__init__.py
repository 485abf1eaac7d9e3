"""What the commands of `panet` do, a module each; their arguments are in `panet_cli.py`."""
