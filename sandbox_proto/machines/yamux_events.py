"""What can happen in a yamux session, and its limits."""

from __future__ import annotations

import enum

import attrs

from ..faults import Fault


@attrs.frozen(kw_only=True)
class YamuxLimits:
    """Limits of one session, in bytes and seconds; None is no limit.

    :ivar peer_streams: how many streams the peer may have open; more are reset.
    :ivar refusals: how many resets in a row of that kind end the session.
    :ivar first_window: a stream's receive window at the beginning; at least 256 KiB.
    :ivar max_window: what it may grow to.
    :ivar window_budget: what all windows of the session may have beyond 256 KiB each.
    :ivar send_buffer: what is taken from the application, for each stream, before it is sent.
    :ivar ping_interval: how often the peer is pinged; the first time at once. None: never.
    :ivar pong_timeout: for how long a pinged peer may be silent.
    :ivar linger: how long a closed stream waits for the peer to end it too.
    :ivar stall: how long a peer that has ended a stream may grant nothing on it: some mean by
        their end that they have gone.
    """

    peer_streams: int = 256
    refusals: int = 1024
    first_window: int = 1024 * 1024
    max_window: int = 16 * 1024 * 1024
    window_budget: int = 64 * 1024 * 1024
    send_buffer: int = 256 * 1024
    ping_interval: float | None = 30.0
    pong_timeout: float | None = 60.0
    linger: float = 60.0
    stall: float = 300.0


class Violation(enum.Enum):
    """How a peer broke the protocol."""

    VERSION = "its frames are of another version"
    TYPE = "a frame is of an unknown type"
    SESSION_STREAM = "data was sent on stream 0"
    UNKNOWN_STREAM = "a frame is for a stream that nobody opened"
    STREAM_ID = "a stream was opened with an id that is not free for it"
    WINDOW_OVERRUN = "it sent more than it was granted"
    WINDOW_OVERFLOW = "it granted more than can be counted"
    DATA_AFTER_END = "it sent data after the end"
    FLOOD = "it asks for more than it takes"


@attrs.frozen
class StreamOpened:
    """The peer opened a stream."""

    stream: int


@attrs.frozen
class StreamAccepted:
    """The peer accepted a stream of ours."""

    stream: int


@attrs.frozen
class StreamData:
    """Data came; report it with `consumed` when it is out of the way."""

    stream: int
    data: bytes


@attrs.frozen
class StreamEnded:
    """The peer sends nothing more on this stream."""

    stream: int


@attrs.frozen
class StreamReset:
    """The stream ended at once, in both directions, without a right to be whole."""

    stream: int


@attrs.frozen
class PeerGoesAway:
    """The peer takes no new streams; those that are open go on."""


@attrs.frozen
class SessionFailed:
    """The session is over, and every stream with it.

    :ivar violation: if the peer broke the protocol, how.
    """

    fault: Fault
    violation: Violation | None = None


YamuxEvent = (
    StreamOpened
    | StreamAccepted
    | StreamData
    | StreamEnded
    | StreamReset
    | PeerGoesAway
    | SessionFailed
)
