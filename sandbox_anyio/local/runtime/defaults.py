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

IMAGE_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The same, in a sandbox whose system is its layers' own."""

SEARCH_PATHS: Final = {"host": DEFAULT_PATH, "layers": IMAGE_PATH}
"""Which of these it is, by the sandbox's system."""

HOST_NAME: Final = "sandbox"
"""What every sandbox is called inside."""
