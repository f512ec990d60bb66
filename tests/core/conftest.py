"""Property tests of the core: repeatable, without a database, without a stopwatch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from ._tables import WATCHED, watching

settings.register_profile(
    "core",
    database=None,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("core")


@pytest.fixture(autouse=True, scope="module")
def states_change_as_the_tables_say() -> Iterator[None]:
    """Whatever a test does with a machine that has a table of states is held to it."""
    with contextlib.ExitStack() as stack:
        for watched in WATCHED:
            stack.enter_context(watching(watched))
        yield
