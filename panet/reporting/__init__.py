"""Report on a run: one HTML page with curves, metrics and mistakes."""

from .page import write_report
from .run import read_run

__all__ = ["read_run", "write_report"]
