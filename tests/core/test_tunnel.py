"""Tunnels: the client's session and the host's end, each by hand and against each other."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_proto.errors import (
    LocalProtocolError,
    SandboxConnectionError,
    SandboxProtocolError,
    SandboxRetryableConnectionError,
    SandboxServerReloadError,
    SandboxTimeoutError,
    TunnelConnectionRefusedError,
    TunnelError,
    TunnelPortNotAllowedError,
    TunnelUnsupportedVersionError,
)
from sandbox_proto.faults import Fault, FaultKind
from sandbox_proto.machines.byte_queue import ByteQueue
from sandbox_proto.machines.tunnel_session import (
    SessionLeaving,
    SessionOpened,
    StreamConnected,
    StreamRefused,
)
from sandbox_proto.machines.websocket import Closed
from sandbox_proto.machines.yamux_events import StreamData, StreamEnded, StreamReset, Violation
from sandbox_proto.plans.reconnect import ReconnectPlan
from sandbox_proto.wire.tunnel import TunnelStatus, check_port, encode_header

from ._helpers import FixedRandom, cut, cut_points
from ._tunnel import QUIET_HOST, QUIET_TUNNEL, Client, Host, settle
from ._yamux import ACK, DATA, FIN, GO_AWAY, KIB, PING, RST, SYN, WINDOW, frame, read_frames

# --- the client's session -------------------------------------------------------------


@pytest.fixture
def client() -> Client:
    client = Client()
    client.upgrade()
    assert client.events == [SessionOpened()]
    return client


def opened(client: Client, port: int = 5432) -> int:
    """A stream that is asked for."""
    stream = client.session.open(port, now=client.now)
    client.said()
    return stream


def test_the_upgrade_is_asked_for_beside_the_data_plane_with_all_headers() -> None:
    request = Client(base="https://host.test/box/").request.decode().lower()
    assert request.startswith("get /box/tunnel http/1.1\r\n")
    assert "x-api-key: key\r\n" in request
    assert "sec-websocket-extensions" not in request


def test_a_stream_begins_with_three_bytes_in_one_message_per_frame(client: Client) -> None:
    stream = client.session.open(5432, now=0)
    assert client.said() == [frame(WINDOW, SYN, 1, 0), frame(DATA, 0, 1, b"\x01\x15\x38")]
    assert client.hear(frame(WINDOW, ACK, 1, 0)) == []
    answer = frame(DATA, 0, 1, b"\0and more")
    assert client.hear(answer) == [StreamConnected(stream), StreamData(stream, b"and more")]
    assert client.hear(frame(DATA, FIN, 1, b"")) == [StreamEnded(stream)]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (1, TunnelPortNotAllowedError),
        (2, TunnelConnectionRefusedError),
        (3, TunnelUnsupportedVersionError),
        (99, TunnelError),
    ],
)
def test_every_other_status_is_an_error_of_its_own(
    client: Client, status: int, error: type[TunnelError]
) -> None:
    stream = opened(client)
    (refused,) = client.hear(frame(DATA, 0, 1, bytes([status])))
    assert isinstance(refused, StreamRefused)
    assert (refused.stream, type(refused.error)) == (stream, error)
    assert getattr(refused.error, "port", 5432) == 5432
    assert client.said() == [frame(WINDOW, FIN, 1, 0)]
    client.hear(frame(WINDOW, FIN, 1, 0))
    assert client.session.can_open, "the session goes on"


@pytest.mark.parametrize("flags", [FIN, RST])
def test_a_stream_that_ends_without_a_status_is_an_error(client: Client, flags: int) -> None:
    opened(client)
    (refused,) = client.hear(frame(WINDOW, flags, 1, 0))
    assert isinstance(refused, StreamRefused)
    assert isinstance(refused.error, TunnelError)


def test_the_status_is_not_waited_for_for_ever(client: Client) -> None:
    stream = opened(client)
    assert client.session.next_deadline() == 30
    assert client.at(29.9) == []
    (refused,) = client.at(30)
    assert isinstance(refused, StreamRefused)
    assert isinstance(refused.error, SandboxTimeoutError)
    assert client.said() == [frame(WINDOW, RST, stream, 0)]


@pytest.mark.parametrize(
    ("status", "final", "kind"),
    [
        (401, True, SandboxConnectionError),
        (404, True, SandboxConnectionError),
        (410, True, SandboxConnectionError),
        (429, False, SandboxRetryableConnectionError),
        (503, False, SandboxRetryableConnectionError),
    ],
)
def test_a_refused_upgrade_says_why_and_whether_to_try_again(
    status: int, final: bool, kind: type[SandboxConnectionError]
) -> None:
    client = Client()
    client.answer(
        f"HTTP/1.1 {status} No\nRetry-After: 7\nContent-Length: 46\n\n"
        '{"detail": {"error": "X", "message": "sorry"}}'
    )
    end = client.end
    assert (end.final, end.retry_after, type(end.error)) == (final, 7, kind)
    assert (end.error.status, "sorry" in str(end.error)) == (status, True)
    assert client.session.finished


def test_the_ends_of_a_session() -> None:
    for code, kind in ((1001, SandboxServerReloadError), (1000, SandboxConnectionError)):
        client = Client()
        client.upgrade()
        assert client.server is not None
        client.server.close(code, now=0)
        client.hear()
        assert type(client.end.error) is kind
        assert not client.end.final
    client = Client()
    client.upgrade()
    client.session.connection_lost(Fault(FaultKind.DISCONNECTED, "cut"), now=0)
    client.take()
    assert not client.end.final


def test_a_server_that_breaks_the_protocol_is_told_and_left(client: Client) -> None:
    opened(client)
    client.hear(frame(DATA, 0, 7, b"?"))
    assert isinstance(client.end.error, SandboxProtocolError)
    assert client.said() == [frame(GO_AWAY, 0, 0, 1)]
    assert isinstance(client.closed, Closed)
    assert client.closed.code == 1002


def test_text_is_taken_for_its_bytes(client: Client) -> None:
    assert client.server is not None
    opened(client)
    client.server.send_text(frame(DATA, 0, 1, b"\0ok").decode(), now=0)
    assert client.hear() == [StreamConnected(1), StreamData(1, b"ok")]
    host = Host()
    host.hear(OPEN.decode(), frame(DATA, 0, 1, encode_header(80)).decode())
    assert host.dials == {1: 80}


def test_streams_of_the_servers_own_are_refused(client: Client) -> None:
    assert client.hear(frame(WINDOW, SYN, 2, 0)) == []
    assert client.said() == [frame(WINDOW, RST, 2, 0)]


def test_a_server_that_leaves_finishes_what_is_open(client: Client) -> None:
    opened(client)
    assert client.hear(frame(DATA, 0, 1, b"\0"), frame(GO_AWAY, 0, 0, 0)) == [
        StreamConnected(1),
        SessionLeaving(),
    ]
    assert not client.session.can_open
    with pytest.raises(LocalProtocolError):
        client.session.open(80, now=0)
    assert client.session.send(1, b"still", now=0) == 5
    assert client.said() == [frame(DATA, 0, 1, b"still")]


def test_closing_says_goodbye_in_both_languages(client: Client) -> None:
    opened(client)
    client.session.close(now=0)
    client.take()
    assert client.end.final
    assert client.said() == [frame(GO_AWAY, 0, 0, 0)]
    assert isinstance(client.closed, Closed)
    assert client.closed.code == 1000


def test_a_client_that_is_silenced_by_yamux_pings_once_in_half_a_minute() -> None:
    client = Client(
        attrs.evolve(QUIET_TUNNEL, yamux=attrs.evolve(QUIET_TUNNEL.yamux, ping_interval=30.0))
    )
    client.upgrade()
    assert client.said() == [frame(PING, SYN, 0, 1)]
    client.now = 0.25
    client.hear(frame(PING, ACK, 0, 1))
    assert client.session.round_trip == 0.25
    client.at(30.25)
    assert client.said() == [frame(PING, SYN, 0, 2)]
    assert client.at(90.25)
    assert isinstance(client.end.error, SandboxTimeoutError)
    assert client.end.error.limit == "liveness"


def test_the_transport_is_not_given_more_than_is_soon_on_its_way(client: Client) -> None:
    """What is queued in a stream can still be dropped when it is reset."""
    streams = [opened(client) for _ in range(4)]
    client.hear(*(frame(WINDOW, 0, stream, 1024 * KIB) for stream in streams))
    for stream in streams:
        assert client.session.send(stream, bytes(256 * KIB), now=0) == 256 * KIB
    first = sum(len(piece) for piece in client.session.data_to_send())  # type: ignore[arg-type]
    assert 256 * KIB <= first <= 330 * KIB
    assert client.session.data_to_send() == []
    assert not client.session.flushed
    client.session.data_sent(first, now=1)
    assert client.session.next_deadline() == 1, "at once: there is more"
    assert len(client.flush()) + first > 1024 * KIB
    assert client.session.flushed


# --- the host's end -------------------------------------------------------------------

OPEN = frame(WINDOW, SYN, 1, 0)


def answers(host: Host) -> list[tuple[int, int, int, int | bytes]]:
    return [part for message in host.said() for part in read_frames(message)]


def test_the_header_may_come_in_pieces_and_with_data_behind_it() -> None:
    host = Host()
    host.hear(OPEN, frame(DATA, 0, 1, b"\x01"), frame(DATA, 0, 1, b"\x15"))
    assert host.dials == {}
    host.hear(frame(DATA, FIN, 1, b"\x38GET /"))
    assert (host.dials, host.inbox, host.ended) == ({1: 5432}, {1: b"GET /"}, {1})


@settings(max_examples=50)
@given(points=cut_points(60))
def test_messages_mean_nothing(points: list[int]) -> None:
    host = Host()
    stream = OPEN + frame(DATA, 0, 1, encode_header(80)) + frame(DATA, FIN, 1, b"hello")
    host.hear(*cut(stream, points))
    assert (host.dials, host.inbox, host.ended) == ({1: 80}, {1: b"hello"}, {1})


def test_a_connected_port_answers_with_a_zero_and_both_ends_may_end_alone() -> None:
    host = Host()
    host.hear(OPEN, frame(DATA, 0, 1, encode_header(80)))
    host.tunnel.connected(1, now=0)
    assert answers(host) == [(WINDOW, ACK, 1, 0), (DATA, 0, 1, b"\0")]
    host.hear(frame(WINDOW, FIN, 1, 0))
    assert host.ended == {1}
    host.tunnel.send(1, b"reply", now=0)
    host.tunnel.send_eof(1, now=0)
    assert answers(host) == [(DATA, 0, 1, b"reply"), (WINDOW, FIN, 1, 0)]


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"\x02\x15\x38", TunnelStatus.UNSUPPORTED_VERSION),
        (b"\x01\x00\x16", TunnelStatus.PORT_NOT_ALLOWED),
        (b"\x01\x00\x00", TunnelStatus.REFUSED),
    ],
)
def test_what_cannot_be_dialled_is_answered_at_once(header: bytes, status: int) -> None:
    host = Host(allowed=lambda port: port != 22)
    host.hear(OPEN, frame(DATA, 0, 1, header))
    assert host.dials == {}
    assert answers(host)[1:] == [(DATA, 0, 1, bytes([status])), (WINDOW, FIN, 1, 0)]


def test_a_stream_without_a_header_is_reset_after_a_while() -> None:
    host = Host()
    host.hear(OPEN, frame(WINDOW, SYN, 3, 0), frame(WINDOW, FIN, 3, 0))
    assert answers(host)[-1] == (WINDOW, RST, 3, 0), "an end instead of a header"
    assert host.tunnel.next_deadline() == 30
    host.at(30)
    assert answers(host) == [(WINDOW, RST, 1, 0)]


def test_more_streams_than_are_allowed_are_reset() -> None:
    host = Host(attrs.evolve(QUIET_HOST, peer_streams=2))
    host.hear(*(frame(WINDOW, SYN, stream, 0) for stream in (1, 3, 5)))
    assert answers(host)[-1] == (WINDOW, RST, 5, 0)


def test_a_host_that_leaves_gives_open_streams_a_moment() -> None:
    host = Host()
    host.hear(OPEN, frame(DATA, 0, 1, encode_header(80)))
    host.tunnel.connected(1, now=0)
    host.tunnel.leave(now=0)
    assert answers(host)[-2] == (GO_AWAY, 0, 0, 0)
    assert not host.tunnel.finished
    host.at(1.5)
    assert (host.tunnel.finished, host.tunnel.close_code) == (True, 1001)
    idle = Host()
    idle.tunnel.leave(now=0)
    assert answers(idle) == [(GO_AWAY, 0, 0, 0)]
    assert (idle.tunnel.finished, idle.tunnel.close_code) == (True, 1001)


def test_a_client_that_goes_away_is_hung_up_on_when_its_last_stream_ended() -> None:
    host = Host()
    host.hear(OPEN, frame(DATA, 0, 1, encode_header(80)), frame(GO_AWAY, 0, 0, 0))
    host.tunnel.connected(1, now=0)
    host.said()
    assert not host.tunnel.finished
    host.hear(frame(WINDOW, FIN, 1, 0))
    host.tunnel.send_eof(1, now=0)
    host.said()
    assert (host.tunnel.finished, host.tunnel.close_code) == (True, 1000)


def test_a_client_that_breaks_the_protocol_is_told_and_left() -> None:
    host = Host()
    host.hear(frame(DATA, 0, 9, b"?"))
    assert host.tunnel.violation is Violation.UNKNOWN_STREAM
    assert (host.tunnel.finished, host.tunnel.close_code) == (True, 1002)
    assert answers(host) == [(GO_AWAY, 0, 0, 1)]


# --- against each other ---------------------------------------------------------------


def test_both_ends_carry_a_conversation(client: Client) -> None:
    host = Host()
    stream = client.session.open(8000, now=0)
    settle(client, host)
    assert host.dials == {stream: 8000}
    host.tunnel.connected(stream, now=0)
    client.session.send(stream, b"q" * 100_000, now=0)
    client.session.send_eof(stream, now=0)
    settle(client, host)
    assert (host.inbox[stream], host.ended) == (b"q" * 100_000, {stream})
    host.tunnel.send(stream, b"a" * 100_000, now=0)
    host.tunnel.send_eof(stream, now=0)
    settle(client, host)
    got = b"".join(event.data for event in client.events if isinstance(event, StreamData))
    assert got == b"a" * 100_000
    assert client.events[-1] == StreamEnded(stream)


def test_a_reset_reaches_the_other_end(client: Client) -> None:
    host = Host()
    first, second = (client.session.open(8000, now=0) for _ in range(2))
    settle(client, host)
    for stream in (first, second):
        host.tunnel.connected(stream, now=0)
    settle(client, host)
    client.session.reset(first, now=0)
    host.tunnel.reset(second, now=0)
    settle(client, host)
    assert host.reset == {first}
    assert client.events[-1] == StreamReset(second)


# --- small things ---------------------------------------------------------------------


@settings(max_examples=100)
@given(
    pieces=st.lists(st.binary(min_size=1, max_size=9000), max_size=12),
    takes=st.lists(st.integers(1, 9000), max_size=30),
)
def test_a_byte_queue_gives_what_it_got(pieces: list[bytes], takes: list[int]) -> None:
    queue, got = ByteQueue(), b""
    for index, piece in enumerate(pieces):
        queue.put(piece)
        if index < len(takes):
            got += queue.take(takes[index])
    while len(queue):
        got += queue.take(5000)
    assert got == b"".join(pieces)
    assert queue.take(1) == b""


def test_reconnecting_backs_off_and_gives_up() -> None:
    plan = ReconnectPlan(3, FixedRandom(1.0))
    delays = [plan.next_delay(final=False, retry_after=None) for _ in range(4)]
    assert delays == [0.5, 1.0, 2.0, None]
    plan.succeeded()
    assert plan.next_delay(final=False, retry_after=3) == 3
    assert plan.next_delay(final=False, retry_after=1e9) == 120
    assert plan.next_delay(final=True, retry_after=None) is None
    assert ReconnectPlan(0, FixedRandom()).next_delay(final=False, retry_after=None) is None


@pytest.mark.parametrize("port", [0, -1, 65536, "80", True, 1.5, None])
def test_what_is_no_port(port: object) -> None:
    with pytest.raises(ValueError, match="1 to 65535"):
        check_port(port)
