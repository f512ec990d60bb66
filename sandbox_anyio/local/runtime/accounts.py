"""Who a command runs as: names of the sandbox's own /etc/passwd, as far as they are mapped.

Standard library only: this module runs in the supervisor.
"""

from __future__ import annotations

import os
from typing import Final

from . import guarded_files

_MAX_DATABASE: Final = 1024 * 1024
_MAX_PATH: Final = 4096


class AccountError(Exception):
    """There is no such user or group, or no command can run as it here."""


def require_root(root: int, account: str | None) -> None:
    """Check that `account` means the sandbox's root, the only user mapped into it.

    :param root: the directory the sandbox's /etc is in.
    :param account: ``user`` or ``user:group``, by name or number; None is root.
    :raises AccountError: it means somebody else, or nobody.
    """
    if account is None:
        return
    user, separator, group = account.partition(":")
    if not user or (separator and not group):
        raise AccountError(f"{account!r} is no user")
    user_id = _number(root, "/etc/passwd", user, "user")
    group_id = _number(root, "/etc/group", group, "group") if group else 0
    if (user_id, group_id) != (0, 0):
        raise AccountError(
            f"cannot run as {account!r}: this host maps a single user id into its sandboxes, "
            "so root is the only user that can run commands"
        )


def home_of_root(root: int) -> str:
    """Root's home as the sandbox's /etc/passwd has it; ``/`` if that is no directory there."""
    for line in _read(root, "/etc/passwd").splitlines():
        fields = line.split(":")
        if len(fields) > 5 and fields[2] == "0":
            home = fields[5]
            if home.startswith("/") and len(home) < _MAX_PATH and _is_directory(home):
                return home
            break
    return "/"


def _is_directory(path: str) -> bool:
    try:
        return os.path.isdir(path)  # noqa: PTH112
    except ValueError:  # a NUL in it
        return False


def _number(root: int, database: str, name: str, what: str) -> int:
    number = _as_id(name)
    if number is not None:
        return number
    for line in _read(root, database).splitlines():
        fields = line.split(":")
        number = _as_id(fields[2]) if len(fields) > 2 and fields[0] == name else None
        if number is not None:
            return number
    raise AccountError(f"the sandbox has no {what} {name!r}")


def _as_id(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else None


def _read(root: int, database: str) -> str:
    # The C library would read these files through modules it loads from the sandbox.
    try:
        descriptor = guarded_files.open_regular(root, database)
    except OSError:
        return ""
    with open(descriptor, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        return file.read(_MAX_DATABASE)
