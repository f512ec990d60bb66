"""Files from the host's side: paths, and what goes wrong with them (protocol/05, 13 section 5)."""

from __future__ import annotations

import errno
from posixpath import join
from typing import Literal
from urllib.parse import parse_qs

from .messages import HostError

Operation = Literal["read", "write"]
_ERROR_TYPES = {"read": "ReadError", "write": "WriteError"}


def requested_path(query: str, home: str, operation: Operation) -> str:
    """The absolute path that ``?path=`` names; relative ones start from the sandbox's home.

    Where ``..`` and links lead is the runtime's business, which resolves inside the sandbox.

    :raises HostError: there is none, or none that a file could have.
    """
    values = parse_qs(query, keep_blank_values=True).get("path", [])
    if len(values) != 1 or not values[0] or "\0" in values[0]:
        message = "give exactly one non-empty path, as ?path="
        raise HostError(400, _ERROR_TYPES[operation], message)
    return join(home, values[0])


def file_error(code: int | None, path: str, operation: Operation) -> HostError:
    """What a failed file operation is answered with.

    :param code: the errno.
    """
    kind = _ERROR_TYPES[operation]
    match code:
        case errno.ENOENT if operation == "read":
            return HostError(404, "FileNotFound", f"there is no file {path!r}")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return HostError(403, "Forbidden", f"no permission to {operation} {path!r}")
        case errno.EISDIR:
            return HostError(400, kind, f"{path!r} is a directory")
        case errno.ENOTDIR if operation == "read":
            return HostError(404, "FileNotFound", f"there is no file {path!r}")
        case errno.ENOSPC | errno.EDQUOT:
            return HostError(507, kind, f"no space left to write {path!r}")
        case errno.ENAMETOOLONG:
            return HostError(400, kind, f"the path is too long: {path!r:.100}")
        case errno.ELOOP:
            return HostError(
                400, kind, f"{path!r} leads through too many links, or a forbidden one"
            )
        case _:
            reason = errno.errorcode.get(code or 0, "unknown error")
            return HostError(400, kind, f"cannot {operation} {path!r}: {reason}")


def entity_tag(mtime_ns: int, size: int, inode: int) -> str:
    """A strong validator that changes with every change of the content."""
    return f'"{mtime_ns:x}-{size:x}-{inode:x}"'
