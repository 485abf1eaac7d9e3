"""The version of the package, which the tags of its repository give."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("panet")
except PackageNotFoundError:  # run from a clone that is not installed
    __version__ = "0+unknown"
