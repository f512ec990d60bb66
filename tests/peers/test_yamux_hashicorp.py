"""Our yamux against hashicorp's, which Debian packages as a library for Go."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox_proto.machines.yamux_events import PeerGoesAway, StreamAccepted, YamuxLimits

from ._yamux_socket import OnSocket

_GO_PATH = Path("/usr/share/gocode")
_LIBRARY = _GO_PATH / "src/github.com/hashicorp/yamux"
_MIB = 1024 * 1024
WINDOW = 256 * 1024
FIXED = YamuxLimits(first_window=WINDOW, max_window=WINDOW)


@pytest.fixture(scope="session")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The peer's program."""
    if shutil.which("go") is None or not _LIBRARY.is_dir():
        pytest.skip("needs Debian's golang-go and golang-github-hashicorp-yamux-dev")
    place = tmp_path_factory.mktemp("go")
    program = place / "yamux_peer"
    source = Path(__file__).with_name("yamux_peer.go")
    environment = os.environ | {
        "GO111MODULE": "off",
        "GOPATH": str(_GO_PATH),
        "GOCACHE": str(place / "cache"),
        "GOFLAGS": "",
    }
    subprocess.run(["go", "build", "-o", program, source], env=environment, check=True)
    return program


@contextmanager
def talking(peer: Path, role: str, limits: YamuxLimits | None = None) -> Iterator[OnSocket]:
    """A session with the peer, who plays this role."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = "{}:{}".format(*listener.getsockname())
        with subprocess.Popen([peer, address, role]) as process:
            sock, _ = listener.accept()
            with sock:
                yield OnSocket("server" if role == "client" else "client", sock, limits)
            assert process.wait(20) == 0


def told(data: bytes) -> bytes:
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}".encode()


def pattern(size: int) -> bytes:
    block = bytes(range(251)) * 1100
    return (block * (size // len(block) + 1))[:size]


def test_streams_are_opened_accepted_echoed_and_ended(peer: Path) -> None:
    with talking(peer, "server") as ours:
        first = ours.open()
        ours.until(lambda: StreamAccepted(first) in ours.events)
        ours.send(first, b"e")
        ours.send_eof(first)
        streams = [ours.open(b"e%d" % number) for number in range(50)]
        for stream in streams:
            ours.send_eof(stream)
        for number, stream in enumerate(streams):
            assert ours.answer(stream) == b"%d" % number
        ours.answer(first)
        # Of those that had ended by then it did not say that it accepts them: no one counts on it.
        assert ours.machine.streams == 0


def test_the_answer_comes_after_our_end(peer: Path) -> None:
    with talking(peer, "server") as ours:
        stream = ours.open(b"t")
        ours.send(stream, b"question")
        ours.send_eof(stream)
        assert ours.answer(stream) == told(b"question")


@pytest.mark.parametrize("limits", [FIXED, YamuxLimits()], ids=["fixed", "growing"])
def test_megabytes_go_both_ways(peer: Path, sweep: int, limits: YamuxLimits) -> None:
    """8 MiB; 64 MiB with ``--sweep 8``."""
    data = pattern(8 * _MIB * sweep)
    with talking(peer, "server", limits) as ours:
        there = ours.open(b"t")
        back = ours.open(b"s" + len(data).to_bytes(8, "big"))
        ours.send(there, data)
        ours.send_eof(there)
        assert ours.answer(there) == told(data)
        assert ours.answer(back) == data


def test_a_peer_that_does_not_read_is_not_sent_more_than_its_window(peer: Path) -> None:
    data = pattern(WINDOW + 100_000)
    with talking(peer, "server") as ours:
        stream = ours.open(b"l")
        for start in range(0, len(data), WINDOW // 2):
            ours.send(stream, data[start : start + WINDOW // 2])
        ours.send_eof(stream)
        ours.quiet()
        assert ours.machine.unsent(stream) == 100_000 + 1, "all but the window; one byte was read"
        ours.open(b"r")
        assert ours.answer(stream) == told(data)


def test_a_peer_sends_what_we_granted_and_goes_on_with_the_credit(peer: Path) -> None:
    for limits in (FIXED, YamuxLimits()):
        with talking(peer, "server", limits) as ours:
            size = 3 * _MIB
            ours.consumes = False
            stream = ours.open(b"s" + size.to_bytes(8, "big"))
            ours.quiet()
            held = len(ours.inbox[stream])
            assert held == limits.first_window
            ours.machine.consumed(stream, held, now=ours.now())
            ours.consumes = True
            assert ours.answer(stream) == pattern(size)


def test_pings_are_answered_by_both(peer: Path) -> None:
    with talking(peer, "server") as ours:
        stream = ours.open(b"p")
        assert ours.answer(stream) == b"<nil>"
        ours.until(lambda: ours.machine.round_trip is not None)
        mark = ours.machine.mark(now=ours.now())
        ours.until(lambda: ours.machine.passed(mark))


def test_a_peer_that_goes_away_finishes_its_streams(peer: Path) -> None:
    with talking(peer, "server") as ours:
        stream = ours.open(b"g")
        ours.until(lambda: PeerGoesAway() in ours.events)
        assert not ours.machine.can_open
        ours.send(stream, b"still here")
        ours.send_eof(stream)
        assert ours.answer(stream) == b"still here"
        assert ours.machine.drained


def test_a_peer_that_is_gone_away_from_opens_nothing_more(peer: Path) -> None:
    with talking(peer, "client") as ours:
        ours.until(lambda: bool(ours.inbox))
        (stream,) = ours.opened
        assert stream == 1
        ours.until(lambda: ours.inbox[stream] == b"hello")
        ours.machine.go_away()
        ours.send(stream, b"hello")
        answer = ours.answer(stream)
        assert answer.startswith(b"hellohello, then ")
        assert b"remote end is not accepting" in answer


def test_a_peer_hangs_up_when_we_break_the_rules(peer: Path) -> None:
    with talking(peer, "server") as ours:
        stream = ours.open(b"e")
        ours.quiet()
        too_much = (WINDOW * 2).to_bytes(4, "big")
        ours.say(b"\0\0\0\0" + stream.to_bytes(4, "big") + too_much)
        ours.until(lambda: ours.gone)
