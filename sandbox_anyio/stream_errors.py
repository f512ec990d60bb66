"""What anyio's streams raise, for faces whose streams raise something else."""

from __future__ import annotations

from anyio import BrokenResourceError, BusyResourceError, ClosedResourceError, EndOfStream

__all__ = ["BrokenResourceError", "BusyResourceError", "ClosedResourceError", "EndOfStream"]
