"""The vendor's JavaScript client without the package `ws`: blocking requests on our host.

The story is `blocking.mjs`; it prints what it saw, and the tests here look at that.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from sandbox_anyio.local.launch import LocalHost

from ._javascript import Seen, tell

STORY = Path(__file__).with_name("blocking.mjs")


@pytest.fixture(scope="module")
def seen(host: LocalHost, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What the story saw, by step."""
    place = tmp_path_factory.mktemp("without") / "npm"
    shutil.copytree(
        packages, place, copy_function=os.link, ignore=shutil.ignore_patterns("ws"), symlinks=True
    )
    return tell(STORY, place, host)


RESULTS = {
    "plain": {"stdout": "out\n", "stderr": "err\n", "exit_code": 3},
    "placed": {"stdout": "/usr grüße 🙂\n", "stderr": "", "exit_code": 0},
    "configured": {"stdout": "/tmp b\n", "stderr": "", "exit_code": 0},
    "no text": {"stdout": "a\ufffdb", "stderr": "", "exit_code": 0},
    "long": {
        "length": 1 << 24,
        "stderr": "[stdout was cut: the first 16777216 of its 17000000 bytes are here]\n",
    },
}


@pytest.mark.parametrize("step", RESULTS)
def test_a_result_is_whole(seen: Seen, step: str) -> None:
    assert seen[step] == {"result": RESULTS[step]}


FAILURES: dict[str, tuple[str, Any]] = {
    "too long": ("timed out after 1 s", "CommandError"),
    "no such shell": ("/no/shell", "CommandError"),
    "streamed": ("ws", None),
}


@pytest.mark.parametrize("step", FAILURES)
def test_a_failure_has_the_vendors_name(seen: Seen, step: str) -> None:
    text, error_type = FAILURES[step]
    assert text in seen[step]["message"]
    assert seen[step].get("errorType") == error_type
