"""What every sandbox starts from, on both sides of its wall."""

from __future__ import annotations

from typing import Final

HOME: Final = "/home/user"
"""Where relative paths and commands start."""

DEFAULT_PATH: Final = (
    "/opt/python/bin:/home/user/.local/bin:"
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)
"""Where programs are looked for when a command's environment does not say."""
