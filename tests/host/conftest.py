"""What every test of the host's own pieces begins with."""

from __future__ import annotations

import os

import pytest

from . import _runtime


@pytest.fixture(autouse=True)
def _note_what_was_there_before() -> None:
    _runtime.there_before = _runtime.descendants_of(os.getpid())
