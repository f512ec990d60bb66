"""Runtimes: what really builds sandboxes and runs commands on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

from . import diagnosis
from .base import (
    CommandSpec,
    ExtractedTar,
    Isolation,
    LayerError,
    Layers,
    PendingFile,
    RunningCommand,
    RunningSandbox,
    Runtime,
    RuntimeUnavailableError,
    SandboxDiedError,
    SandboxPathError,
    SandboxSpec,
    SpawnError,
    System,
)
from .defaults import DEFAULT_PATH, HOME, IMAGE_PATH
from .doctor import Finding, ProbeReport, probe

__all__ = [
    "DEFAULT_PATH",
    "HOME",
    "IMAGE_PATH",
    "CommandSpec",
    "ExtractedTar",
    "Finding",
    "Isolation",
    "LayerError",
    "Layers",
    "PendingFile",
    "ProbeReport",
    "RunningCommand",
    "RunningSandbox",
    "Runtime",
    "RuntimeUnavailableError",
    "SandboxDiedError",
    "SandboxPathError",
    "SandboxSpec",
    "SpawnError",
    "System",
    "open_runtime",
    "probe",
]


@contextlib.asynccontextmanager
async def open_runtime(
    isolation: Literal["auto", "none"], state_dir: Path
) -> AsyncIterator[Runtime]:
    """A runtime for this machine, with everything it keeps below `state_dir`.

    ``"auto"`` means the strongest isolation there is, and an error where there is none:
    never less without being asked. ``"none"`` runs commands unprotected.

    :raises RuntimeUnavailableError: on entering the block; the message says what to install
        or to set.
    """
    # Imported here: other systems lack modules of the standard library that these need.
    if isolation == "none":
        diagnosis.require_posix()
        from .plain import open_plain

        async with open_plain(state_dir) as unprotected:
            yield unprotected
    else:
        diagnosis.require_linux()
        from .bubblewrap import open_bubblewrap

        async with open_bubblewrap(state_dir) as isolated:
            yield isolated
