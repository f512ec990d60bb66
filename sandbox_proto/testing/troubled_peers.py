"""What may stand before a host's end of a connection and get in the way.

Each is a `Peer` around a `Peer`. They understand just as much of the bytes as they must to
strike at the right one.
"""

from __future__ import annotations

from collections.abc import Callable

from ..host.messages import HostError
from ..machines.base import SEND_EOF, Buffer, Output
from ..machines.http1_server import Http1Server
from .virtual_host import Peer

# Every way of telling a command's end has this in it; in output its quotes would be escaped.
_EXIT = b'"exit_code":'
_SWITCHED = b"HTTP/1.1 101"
_RELOADED = b"\x88\x02\x03\xe9"  # a close frame of a server: 1001


class TroubledPeer:
    """Passes everything on, until it ends the connection for both sides.

    :param struck: told when it strikes.
    """

    def __init__(self, inner: Peer, struck: Callable[[], object]) -> None:
        self._inner, self._struck = inner, struck
        self._ended = False

    def receive_data(self, data: Buffer, *, now: float) -> None:
        if not self._ended:
            self._inner.receive_data(data, now=now)

    def receive_eof(self, *, now: float) -> None:
        if not self._ended:
            self._inner.receive_eof(now=now)

    def abandon(self, *, now: float) -> None:
        if not self._ended:
            self._inner.abandon(now=now)

    def data_to_send(self, *, now: float) -> list[Output]:
        return [] if self._ended else self._inner.data_to_send(now=now)

    @property
    def finished(self) -> bool:
        return self._ended or self._inner.finished

    def strike(self, *, now: float) -> None:
        """The host's end is gone, whatever the host thinks of it."""
        self._struck()
        self._inner.abandon(now=now)
        self._ended = True


class ExitLosingPeer(TroubledPeer):
    """Ends the connection in place of telling a command's end."""

    def data_to_send(self, *, now: float) -> list[Output]:
        passed: list[Output] = []
        for chunk in super().data_to_send(now=now):
            if chunk is not SEND_EOF and _EXIT in bytes(chunk):
                self.strike(now=now)
                break
            passed.append(chunk)
        return passed


class ReloadingPeer(TroubledPeer):
    """Closes a WebSocket with 1001 after some frames, as when a host is replaced.

    :param frames: how many frames of the host's are carried before.
    """

    def __init__(self, inner: Peer, struck: Callable[[], object], *, frames: int) -> None:
        super().__init__(inner, struck)
        self._left = frames
        self._switched = False

    def data_to_send(self, *, now: float) -> list[Output]:
        passed: list[Output] = []
        for chunk in super().data_to_send(now=now):
            if not self._switched:
                self._switched = chunk is not SEND_EOF and bytes(chunk[:12]) == _SWITCHED
            elif self._left:
                self._left -= 1
            else:
                self.strike(now=now)
                return [*passed, _RELOADED]
            passed.append(chunk)
        return passed


class UnavailablePeer(TroubledPeer):
    """Answers one request with 503, and closes.

    :param request: which request of the connection, from 0.
    :param executed: whether the host gets it, and carries it out, but its answer is lost.
    """

    def __init__(
        self,
        inner: Peer,
        struck: Callable[[], object],
        *,
        request: int = 0,
        executed: bool = False,
    ) -> None:
        super().__init__(inner, struck)
        self._left, self._executed = request, executed
        self._reader = Http1Server()
        self._held = bytearray()
        self._passing = self._swallowing = self._answered = False

    def receive_data(self, data: Buffer, *, now: float) -> None:
        if self._passing or self._ended:
            super().receive_data(data, now=now)
            return
        self._held += data
        self._reader.receive_data(data)
        if (request := self._reader.next_event()) is None:
            return
        if self._left == 0:
            self._strike_at_request(now)
            return
        self._left -= 1
        self._passing = request.upgrade_key is not None
        self._pass_on(now)
        if not self._passing:  # only so that the reader takes the next one
            self._reader.respond(204, {})
            self._reader.data_to_send()

    def _strike_at_request(self, now: float) -> None:
        if self._executed:
            self._swallowing = True
            self._pass_on(now)
        else:
            self._refuse(now)

    def _pass_on(self, now: float) -> None:
        held, self._held = bytes(self._held), bytearray()
        super().receive_data(held, now=now)

    def _refuse(self, now: float) -> None:
        self.strike(now=now)
        error = HostError(503, "ServiceUnavailable", "the service is unavailable")
        response = error.response()
        headers = {"content-type": "application/json", "connection": "close"}
        self._reader.respond(response.status, headers, response.body)

    def data_to_send(self, *, now: float) -> list[Output]:
        output = super().data_to_send(now=now)
        if self._swallowing:
            if not output:
                return []
            self._swallowing = False
            self._refuse(now)
        if self._ended and not self._answered:
            self._answered = True
            return self._reader.data_to_send()
        return output

    @property
    def finished(self) -> bool:
        return self._answered if self._ended else self._inner.finished and not self._swallowing
