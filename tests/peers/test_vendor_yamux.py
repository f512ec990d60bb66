"""Our yamux against the vendor's client, which is another implementation, in memory."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from sandbox_proto.machines.yamux_events import PeerGoesAway, StreamOpened, YamuxLimits

from ._vendor import vendor  # noqa: F401 - skips where there is none
from ._yamux_socket import OnSocket

yamux = pytest.importorskip("langsmith.sandbox._yamux")

_MIB = 1024 * 1024
WINDOW = 256 * 1024


class _Wire:
    """What the vendor's session reads from and writes to."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def read(self, count: int) -> bytes:
        data = self._socket.recv(count, socket.MSG_WAITALL)
        if len(data) < count:
            raise EOFError
        return data

    def write(self, data: bytes) -> int:
        self._socket.sendall(data)
        return len(data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class Pair:
    """The vendor's session as client, and our machine as server, which takes turns with it."""

    def __init__(self, limits: YamuxLimits) -> None:
        ours, self._theirs = socket.socketpair()
        self.session = yamux.YamuxSession(_Wire(self._theirs))
        self.ours = OnSocket("server", ours, limits)
        self._sockets = (ours, self._theirs)

    def close(self) -> None:
        self.session.close()
        for each in self._sockets:
            each.close()

    def meanwhile(self, call: Callable[[], bytes | None]) -> bytes | None:
        """A call of the vendor's, which blocks, while we carry bytes."""
        results: list[bytes | None] = []
        thread = threading.Thread(target=lambda: results.append(call()))
        thread.start()
        self.ours.until(lambda: bool(results))
        thread.join()
        return results[0]


@pytest.fixture(params=[WINDOW, _MIB], ids=["256 KiB", "1 MiB"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    pair = Pair(YamuxLimits(first_window=request.param))
    yield pair
    pair.close()


def exactly(stream: object, count: int) -> Callable[[], bytes]:
    def read() -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = stream.read(min(count - len(data), 16384))  # type: ignore[attr-defined]
            assert piece, "the stream ended"
            data += piece
        return bytes(data)

    return read


def test_frames_are_exchanged(pair: Pair) -> None:
    ours, stream = pair.ours, pair.session.open_stream()
    ours.until(lambda: StreamOpened(1) in ours.events)
    stream.write(b"\x01\x15\x38")
    ours.until(lambda: ours.inbox[1] == b"\x01\x15\x38")
    ours.send(1, b"\0hello")
    assert pair.meanwhile(exactly(stream, 6)) == b"\0hello"
    ours.send(1, b"last words")
    ours.send_eof(1)
    assert pair.meanwhile(exactly(stream, 10)) == b"last words"
    assert pair.meanwhile(lambda: stream.read(1)) == b""
    stream.write(b"I am still here")
    stream.close()
    ours.until(lambda: ours.ended == {1})
    assert ours.inbox[1].endswith(b"I am still here")
    assert ours.machine.streams == 0


def test_megabytes_go_both_ways(pair: Pair, sweep: int) -> None:
    """8 MiB; 64 MiB with ``--sweep 8``."""
    data = bytes(range(251)) * 33421 * sweep
    ours, stream = pair.ours, pair.session.open_stream()
    writer = threading.Thread(target=stream.write, args=(data,))
    writer.start()
    ours.until(lambda: len(ours.inbox.get(1, b"")) == len(data))
    writer.join()
    assert ours.inbox[1] == data
    reading = threading.Thread(target=lambda: got.append(exactly(stream, len(data))()))
    got: list[bytes] = []
    reading.start()
    ours.send(1, data)
    ours.until(lambda: bool(got))
    reading.join()
    assert got == [data]


def test_it_stops_at_our_window_and_goes_on_with_the_credit(pair: Pair) -> None:
    ours, stream = pair.ours, pair.session.open_stream()
    ours.consumes = False
    writer = threading.Thread(target=stream.write, args=(bytes(3 * _MIB),))
    writer.start()
    ours.quiet()
    held = len(ours.inbox[1])
    assert held in (WINDOW, _MIB)
    ours.machine.consumed(1, held, now=ours.now())
    ours.consumes = True
    ours.until(lambda: len(ours.inbox[1]) == 3 * _MIB)
    writer.join()


def test_we_stop_at_its_window(pair: Pair) -> None:
    ours, stream = pair.ours, pair.session.open_stream()
    ours.until(lambda: bool(ours.opened))
    ours.machine.send(1, bytes(WINDOW), now=ours.now())
    ours.quiet()
    assert ours.machine.send(1, b"over", now=ours.now()) == 4
    ours.quiet()
    assert ours.machine.unsent(1) == 4
    assert pair.meanwhile(exactly(stream, WINDOW + 4)) == bytes(WINDOW) + b"over"


def test_it_answers_our_pings_and_we_answer_its(pair: Pair) -> None:
    ours = pair.ours
    ours.until(lambda: ours.machine.round_trip is not None)
    pair.session._send_frame(2, 1, 0, 4711)  # it pings only every 30 s
    ours.quiet()
    mark = ours.machine.mark(now=ours.now())
    ours.until(lambda: ours.machine.passed(mark))


def test_it_goes_away(pair: Pair) -> None:
    ours = pair.ours
    pair.session.open_stream()
    ours.until(lambda: bool(ours.opened))
    pair.session.close()
    ours.until(lambda: PeerGoesAway() in ours.events)


def test_we_reset_and_go_away(pair: Pair) -> None:
    ours, stream = pair.ours, pair.session.open_stream()
    ours.until(lambda: bool(ours.opened))
    ours.machine.reset(1, now=ours.now())
    ours.quiet()
    with pytest.raises(ConnectionError):
        stream.read(1)
    ours.machine.go_away()
    ours.quiet()
    assert pair.session.is_closed
