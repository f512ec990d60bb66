"""What several of the vendor's stories begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import _javascript


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which node finds the vendor's client."""
    place = tmp_path_factory.mktemp("npm")
    _javascript.install(place)
    return place
