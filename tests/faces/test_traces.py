"""One session, recorded once, played to every face: no sockets, no time, equal results."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import attrs
import pytest

from sandbox_anyio.anyio_network import AnyioNetwork
from sandbox_anyio.local.launch import LocalHost
from sandbox_anyio.recording import Recording
from sandbox_anyio.replaying import load_trace
from sandbox_proto.trace.lines import Trace, TraceError
from sandbox_proto.trace.playback import PlaybackError
from sandbox_proto.trace.reexecution import verify

from ..drivers._cutting import DOWN, UP, Cut, CuttingRelay
from .conftest import FACES, Face

_DRIVERS = Path(__file__).parents[1] / "drivers"
_TICKS = "for i in 1 2 3 4 5 6 7 8; do echo tick $i; sleep 0.05; done"
_SECRET = "correct-horse-battery-staple"


def story(client: Any, face: Face) -> dict[str, Any]:
    """Create, run with a connection that is cut, upload, tunnel, service, delete."""
    told: dict[str, Any] = {}
    with client.sandbox() as sandbox:
        told["record"] = (sandbox.status, sandbox.id, sandbox.created_at)
        handle = sandbox.run(_TICKS, wait=False)
        told["ticks"] = "".join(chunk.data for chunk in handle)
        told["exit"] = handle.result.exit_code
        content = bytes(range(256)) * 2000
        told["uploaded"] = sandbox.upload(content, "/tmp/content")
        told["read back"] = sandbox.read("/tmp/content") == content
        failed = sandbox.run(f"echo {_SECRET}; exit 3", env={"PASSWORD": _SECRET})
        told["failed"] = (failed.exit_code, len(failed.stdout))
        sandbox.write("tunnelled.py", (_DRIVERS / "_tunnel_service.py").read_bytes())
        sandbox.write("service.py", (_DRIVERS / "_echo_service.py").read_bytes())
        servers = [
            sandbox.run(f"exec python3 {command}", wait=False, close_input=False, timeout=0)
            for command in ("tunnelled.py", "service.py 8000")
        ]
        for server in servers:
            server.wait_for_output("listening", 20)
        stream = face.connect(sandbox, 7000)
        stream.send(b"hello")
        told["echo"] = stream.receive()
        stream.send_eof()
        told["end"] = stream.receive()
        stream.close()
        service = sandbox.service(8000)
        answer = service.get("/page")
        told["page"] = (answer.status, answer.text)
        for server in servers:
            server.kill()
            told.setdefault("killed", []).append(server.result.exit_code)
    told["left"] = [box.name for box in client.list_sandboxes()]
    return told


@attrs.frozen
class Recorded:
    path: Path
    told: dict[str, Any]
    seconds: float
    api_key: str


@pytest.fixture(scope="module")
def recorded(host: LocalHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    path = tmp_path_factory.mktemp("traces") / "session.jsonl"
    face = FACES[0]
    whole = Cut(UP, 1 << 40, by_reset=False)
    cut = Cut(DOWN, 400, by_reset=True, refusals=("refused",))
    began = time.monotonic()
    with CuttingRelay(host.endpoint, [whole, cut]) as relay:
        settings = {
            "api_endpoint": relay.url,
            "api_key": host.api_key,
            "headers": {"X-Team-Key": "team-key-of-the-story"},
            "trust_env": False,
            "network": AnyioNetwork(dial=relay.dial),
        }
        recording = Recording(path=path, redact=[_SECRET])
        with face.open_client(record=recording, **settings) as client:
            told = story(client, face)
        assert (relay.cuts, relay.refusals) == (1, 1)
    yield Recorded(path, told, time.monotonic() - began, host.api_key)


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object) -> NoReturn:
        raise AssertionError(f"a socket was used: {args!r}")

    for name in ("connect", "connect_ex", "bind", "listen"):
        monkeypatch.setattr(socket.socket, name, forbidden)


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)
def test_it_plays_to_every_face(recorded: Recorded, face: Face, no_sockets: None) -> None:
    began = time.monotonic()
    with face.open_client(replay=recorded.path) as client:
        assert story(client, face) == recorded.told
    assert time.monotonic() - began < recorded.seconds


def test_the_core_does_it_again(recorded: Recorded) -> None:
    trace = load_trace(recorded.path)
    report = verify(trace)
    assert (report.difference, report.left_out) == (None, {})
    assert report.actors == len(trace.actors()) - 1  # all but the network
    assert report.steps > 100
    assert sum("Reattaching" in str(line.then) for line in trace.lines) >= 1


def test_it_holds_no_secret(recorded: Recorded) -> None:
    text = recorded.path.read_text()
    for secret in (recorded.api_key, _SECRET, "team-key-of-the-story"):
        assert secret not in text
        for part in (secret[: len(secret) // 2], secret[len(secret) // 2 :]):
            assert part not in text, "half of a secret is one, too"
    assert "eyJ" not in text  # the service's token


def test_lengths_stay_true(recorded: Recorded) -> None:
    """A masked header is as long as the header was."""
    assert f'"x-api-key": "{"*" * len(recorded.api_key)}"' in recorded.path.read_text()


def test_a_byte_that_was_changed_is_found(recorded: Recorded) -> None:
    """Wherever a digit or letter of what was heard is changed, verification ends there."""
    lines = recorded.path.read_text().splitlines()
    changed = 0
    for number, text in enumerate(lines):
        if '"call": "receive_data"' not in text or "tick 3" not in text:
            continue
        edited = [*lines[:number], text.replace("tick 3", "tick 4"), *lines[number + 1 :]]
        difference = verify(Trace.parse(edited)).difference
        assert difference is not None
        assert difference.actor.startswith("command-")
        assert difference.line >= number + 1
        assert "tick 3" in difference.expected and "tick 4" in difference.got
        assert f"line {difference.line}: {difference.actor}" in str(difference)
        changed += 1
    assert changed >= 1


def test_a_program_that_asks_for_more_is_told(
    recorded: Recorded, no_sockets: None, face: Face
) -> None:
    with (
        pytest.raises(PlaybackError, match=r"asks for GET /boxes/other.* not yet played: line \d+"),
        face.open_client(replay=recorded.path) as client,
    ):
        client.get_sandbox("other")


def test_a_program_that_says_something_else_is_told(recorded: Recorded, no_sockets: None) -> None:
    with (
        pytest.raises(PlaybackError, match=r"echo something else.* when the trace was recorded"),
        FACES[0].open_client(replay=recorded.path) as client,
        client.sandbox() as sandbox,
    ):
        sandbox.run("echo something else")


def test_a_program_that_does_less_is_told(recorded: Recorded, no_sockets: None, face: Face) -> None:
    with (
        pytest.raises(PlaybackError, match="did less than when the trace was recorded"),
        face.open_client(replay=recorded.path) as client,
    ):
        client.create_sandbox()


def test_what_is_no_trace_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"log": {"version": "1.2"}}))
    with pytest.raises(TraceError, match="no trace"), FACES[0].open_client(replay=path):
        pass
