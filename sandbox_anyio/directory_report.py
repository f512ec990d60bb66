"""What is said of a directory that was transferred."""

from __future__ import annotations

from typing import Literal

import attrs

SymlinkPolicy = Literal["keep", "follow", "skip"]


@attrs.define
class DirectoryReport:
    """What became of a directory.

    :ivar files: how many files were transferred.
    :ivar directories: how many directories.
    :ivar links: how many symbolic links.
    :ivar bytes: the bytes of the files.
    :ivar skipped: relative path -> why it was not transferred: devices, pipes and sockets;
        links that lead outside (when unpacking).
    """

    files: int = 0
    directories: int = 0
    links: int = 0
    bytes: int = 0
    skipped: dict[str, str] = attrs.field(factory=dict)
