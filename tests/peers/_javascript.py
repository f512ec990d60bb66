"""The vendor's JavaScript client under node: getting it, and letting it tell a story.

A story is a script beside this file; it prints what it saw, one JSON object a line, each with
its "step".
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sandbox_anyio.local.launch import LocalHost

PACKAGES = ["langsmith@0.12.0", "ws@8.23.0"]

# What npm says when it is the network's fault.
UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH")

Seen = dict[str, dict[str, Any]]


def install(place: Path) -> None:
    """Install the vendor's client into a directory, or skip the test that needs it."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("the vendor's JavaScript client needs node and npm")
    options = ["--prefix", str(place), "--prefer-offline", "--no-audit", "--no-fund"]
    command = [npm, "install", *options, "--ignore-scripts", "--fetch-retries=0", *PACKAGES]
    try:
        installed = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        pytest.skip("the npm registry did not answer within a minute")
    if installed.returncode and any(word in installed.stderr for word in UNREACHABLE):
        pytest.skip(f"the npm registry cannot be reached: {installed.stderr.splitlines()[0]}")
    assert installed.returncode == 0, installed.stderr


def tell(story: Path, packages: Path, host: LocalHost, *arguments: str) -> Seen:
    """What a story saw, by step."""
    script = shutil.copy(story, packages)  # packages are looked for where the script lies
    environment = {
        "PATH": os.environ["PATH"],
        "LANGSMITH_ENDPOINT": host.endpoint,
        "LANGSMITH_API_KEY": host.api_key,
    }
    command = ["node", script, *arguments]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    return {line.pop("step"): line for line in lines}
