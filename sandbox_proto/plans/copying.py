"""What ``sandbox cp SOURCE TO`` means: which side is the sandbox's, and what lands where."""

from __future__ import annotations

import posixpath
import re
from typing import Self

import attrs

# A colon before any slash separates a sandbox's name from a path; one letter is a drive.
_REMOTE = re.compile(r"([^/\\:]{2,}|[^/\\:A-Za-z]):(.*)", re.DOTALL)
STREAM = "-"


@attrs.frozen
class CopyPlace:
    """One end of a copy.

    :ivar sandbox: the name of a sandbox; None: this machine.
    :ivar path: a path there; the home directory of a sandbox is ``.``.
    """

    sandbox: str | None
    path: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """From the command line.

        :raises ValueError: it is empty.
        """
        if not text:
            raise ValueError("an empty path is no place")
        found = _REMOTE.fullmatch(text)
        return cls(None, text) if found is None else cls(found[1], found[2] or ".")

    @property
    def is_stream(self) -> bool:
        """Standard input or output."""
        return self.sandbox is None and self.path == STREAM

    @property
    def wants_directory(self) -> bool:
        """Whether it can only be a directory, whatever is there."""
        return self.path.endswith("/") or posixpath.basename(self.path) in (".", "..")


def copy_places(source: str, to: str) -> tuple[CopyPlace, CopyPlace]:
    """Both ends of a copy.

    :raises ValueError: not exactly one of them is in a sandbox.
    """
    places = CopyPlace.parse(source), CopyPlace.parse(to)
    if (places[0].sandbox is None) == (places[1].sandbox is None):
        raise ValueError(
            f"one of {source!r} and {to!r} must be in a sandbox (NAME:PATH), and one here; "
            "a local name with a colon is written ./a:b"
        )
    return places


def place_inside(directory: CopyPlace, name: str, source: CopyPlace) -> str:
    """Where something goes that is copied into a directory.

    :param name: the last part of the source's path.
    """
    if name in ("", ".", "..") or posixpath.basename(source.path) == ".":
        return directory.path  # what is in it, not it
    return posixpath.join(directory.path, name)
