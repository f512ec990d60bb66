"""Playing a recorded trace to a client: ``AsyncSandboxClient(replay="session.jsonl")``."""

from __future__ import annotations

import os
import re
from pathlib import Path

import attrs

from sandbox_proto.trace.lines import Trace, TraceError
from sandbox_proto.trace.playback import PlaybackHost
from sandbox_proto.trace.reexecution import Beside
from sandbox_proto.trace.tape import Tape

from .virtual_network import VirtualNetwork

_DIGEST = re.compile("[0-9a-f]{64}")


@attrs.frozen(kw_only=True)
class Replay:
    """What to play, and how strictly.

    :ivar path: a file that ``record=`` wrote.
    :ivar strict: closing the client fails if something recorded was not asked for.
    """

    path: Path = attrs.field(converter=Path)
    strict: bool = True


def load_trace(path: str | os.PathLike[str]) -> Trace:
    """A trace from its file.

    :raises OSError: it cannot be read.
    :raises TraceError: it is no trace, or of another version.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            return Trace.parse(file)
    except UnicodeDecodeError:
        raise TraceError("this is no trace: it is not text in UTF-8") from None


def beside(path: str | os.PathLike[str]) -> Beside:
    """The content that is kept beside a trace."""
    directory = Path(path).with_name(Path(path).name + ".d")

    def read(name: str) -> bytes:
        if not _DIGEST.fullmatch(name):  # a trace may have been written by anybody
            raise ValueError(f"{name!r:.80} is no SHA-256 in hexadecimal")
        return (directory / name).read_bytes()

    return read


class ReplayNetwork(VirtualNetwork):
    """A network on which a trace answers; no sockets, and no time but the virtual.

    :raises OSError: the file cannot be read.
    :raises TraceError: it is no trace, or this version of the core cannot follow it.
    """

    def __init__(self, replay: str | os.PathLike[str] | Replay) -> None:
        self._replay = replay if isinstance(replay, Replay) else Replay(path=Path(replay))
        path = self._replay.path
        self._playback = PlaybackHost(Tape.of(load_trace(path), beside(path)))
        super().__init__(self._playback)

    @property
    def api_endpoint(self) -> str:
        """The control plane that was spoken to when the trace was recorded."""
        return self._playback.api_endpoint

    def finish(self) -> None:
        """The program has done what it does.

        :raises PlaybackError: that was less than when the trace was recorded.
        """
        if self._replay.strict:
            self._playback.check_all_played()
