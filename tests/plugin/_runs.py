"""What tests of the plugin know of runs within runs."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable

import pytest

_INSTALLED = importlib.metadata.entry_points(group="pytest11", name="sandbox")
PLUGIN = "sandbox" if _INSTALLED else "sandbox_anyio.pytest_plugin"

Run = Callable[..., pytest.RunResult]
