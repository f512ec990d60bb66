"""Who runs a command, where, and with what environment (protocol/02 section 10, 13 number 60)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ..wire.exec_messages import Execute
from .boxes import Box


@attrs.frozen
class RunSettings:
    """What a process of a command gets.

    :ivar user: None is the sandbox's default user.
    :ivar work_dir: None is the sandbox's home.
    """

    env: dict[str, str]
    user: str | None
    work_dir: str | None


def run_settings(box: Box, message: Execute, base: Mapping[str, str]) -> RunSettings:
    """Lay the layers over each other, lowest first: host, sandbox, command.

    :param base: the environment of the sandbox's root file system (PATH, HOME, ...).
    """
    command: Mapping[str, Any] = message.run_config or {}
    env = dict(base)
    if message.pty:
        env["TERM"] = "xterm-256color"
    env |= box.run_config.get("env_vars") or {}
    env |= box.env_vars
    env |= command.get("env_vars") or message.env or {}
    return RunSettings(
        env,
        command.get("user") or box.run_config.get("user"),
        command.get("work_dir") or message.cwd or box.run_config.get("work_dir"),
    )
