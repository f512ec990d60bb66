"""What crosses the boundary of the core, written down: recorded, done again, played."""

from .lines import Line, Trace, TraceError
from .reexecution import Difference, Report, verify

__all__ = ["Difference", "Line", "Report", "Trace", "TraceError", "verify"]
