"""Commands: their output as it streams, and what the shortest one costs."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

from sandbox_proto.machines.ws_frames import FrameSplitter
from sandbox_proto.wire.command_models import OutputChunk

from .cases_requests import everywhere
from .clients import our_sandbox, vendor_sandbox
from .measuring import MIB, Case, Contender, Measure, Sample, Setting, Target, timed, watched
from .raw import STATUS, canned
from .standin_output import piece_of, websocket_output

_READ = 256 * 1024  # as much is read at once


@contextlib.asynccontextmanager
async def vendor_sse_sandbox(setting: Setting, place: str = "plain") -> AsyncIterator[Any]:
    """A sandbox of the vendor's whose commands go over event streams."""
    os.environ["LANGSMITH_EXPERIMENTAL_FEATURES"] = "sandbox_sse_exec"
    try:
        async with vendor_sandbox(setting, place) as sandbox:
            yield sandbox
    finally:
        del os.environ["LANGSMITH_EXPERIMENTAL_FEATURES"]


@contextlib.asynccontextmanager
async def our_sse_sandbox(setting: Setting, place: str = "plain") -> AsyncIterator[Any]:
    """One of ours."""
    async with our_sandbox(setting, place, exec_transport="sse") as sandbox:
        yield sandbox


@contextlib.asynccontextmanager
async def our_websocket_sandbox(setting: Setting, place: str = "plain") -> AsyncIterator[Any]:
    """One of ours whose commands have a WebSocket each."""
    async with our_sandbox(setting, place, exec_transport="websocket") as sandbox:
        yield sandbox


@contextlib.asynccontextmanager
async def our_prewarmed_sandbox(setting: Setting, place: str = "plain") -> AsyncIterator[Any]:
    """One of ours for whose commands WebSockets stand open."""
    async with our_sandbox(setting, place, prewarm=4, exec_transport="websocket") as sandbox:
        yield sandbox


# --- streaming --------------------------------------------------------------------------


def _output(open_sandbox: Any, piece: int, *, iterating: bool) -> Measure:
    async def measure(setting: Setting) -> Sample:
        command, total = f"frames {setting.count} {piece}", setting.count * piece
        handles: list[Any] = []  # what a handle keeps is there until its user lets go of it

        async with open_sandbox(setting) as sandbox:
            await sandbox.run("true")

            async def iterate() -> None:
                handle = await sandbox.run(command, wait=False)
                handles.append(handle)
                messages = size = 0
                async for chunk in handle:
                    messages += 1
                    size += len(chunk.data)
                assert (messages, size) == (setting.count, total), f"{messages}, {size}"

            async def run() -> Any:
                result = await sandbox.run(command)
                assert (result.exit_code, len(result.stdout)) == (0, total)
                return result

            return await watched(iterate if iterating else run, setting.count)

    return measure


def _pieces(piece: int, *, only_json: bool) -> Measure:
    """The least that has to be done for the same output, without any network."""
    decode = json.JSONDecoder().raw_decode

    async def measure(setting: Setting) -> Sample:
        command = f"frames {setting.count} {piece}"
        writes = b"".join(websocket_output({"command": command}))
        text = json.dumps({"type": "stdout", "data": piece_of(piece), "offset": 12345})

        async def scan() -> None:
            for _ in range(setting.count):
                decode(text)

        async def read() -> None:
            splitter, messages = FrameSplitter(MIB), 0
            for start in range(0, len(writes), _READ):
                splitter.feed(writes[start : start + _READ])
                while (cut := splitter.take(in_message=False)) is not None:
                    fields, _ = decode(cut.data.decode())
                    if fields["type"] == "stdout":
                        OutputChunk(fields["type"], fields["data"], fields["offset"])
                        messages += 1
            assert messages == setting.count

        return await watched(scan if only_json else read, setting.count)

    return measure


def _streaming_case(
    name: str, title: str, piece: int, counts: tuple[int, int], least: float, *, iterating: bool
) -> Case:
    ours = _output(our_websocket_sandbox, piece, iterating=iterating)
    vendor = _output(vendor_sandbox, piece, iterating=iterating)
    targets = [Target(metric="wall", least=least)]
    contenders = (*everywhere(ours), Contender("vendor", vendor))
    if piece < 1024:
        limit = "reader, JSON and objects"
        targets.append(Target(metric="cpu", than=limit, most=1.5))
    else:
        limit = "JSON alone"
        targets.append(Target(metric="cpu", than=limit, most=1.8))
        if iterating:
            targets.append(Target(metric="kept", than=None, most=4.0 * MIB))
    return Case(
        name=name,
        title=title,
        contenders=(*contenders, Contender(limit, _pieces(piece, only_json=piece >= 1024))),
        targets=(*targets, Target(metric="cpu", of="ours, trio", than="ours", most=1.1)),
        unit="messages",
        small=(counts[0], 0),
        full=(counts[1], 0),
        rounds=11 if piece < 1024 else 7,
        fresh=piece >= 1024,
    )


def _sse_case(name: str, title: str, piece: int, counts: tuple[int, int], least: float) -> Case:
    contenders = (
        *everywhere(_output(our_sse_sandbox, piece, iterating=True)),
        Contender("vendor", _output(vendor_sse_sandbox, piece, iterating=True)),
    )
    targets = [Target(metric="wall", least=least)]
    if piece > 1024:
        contenders += (Contender("base64 alone", _base64_alone(piece)),)
        targets.append(Target(metric="cpu", than="base64 alone", most=1.6))
    return Case(
        name=name,
        title=title,
        contenders=contenders,
        targets=(*targets, Target(metric="cpu", of="ours, trio", than="ours", most=1.1)),
        unit="messages",
        small=(counts[0], 0),
        full=(counts[1], 0),
        rounds=9,
    )


def _base64_alone(piece: int) -> Measure:
    import binascii

    data = binascii.b2a_base64(piece_of(piece).encode(), newline=False)

    async def measure(setting: Setting) -> Sample:
        async def call() -> None:
            for _ in range(setting.count):
                binascii.a2b_base64(data)

        return await watched(call, setting.count)

    return measure


# --- the shortest command ---------------------------------------------------------------


def _trivial(open_sandbox: Any, place: str = "plain", command: str = "true") -> Measure:
    async def measure(setting: Setting) -> Sample:
        async with open_sandbox(setting, place) as sandbox:

            async def call() -> None:
                result = await sandbox.run(command)
                assert (result.exit_code, result.stdout) == (0, "")

            return await timed(call, setting.count)

    return measure


def _trivial_case(
    name: str,
    title: str,
    place: str,
    targets: tuple[Target, ...],
    contenders: dict[str, Any],
    *,
    command: str = "true",
    full: int = 20,
    limit: bool = False,
) -> Case:
    everyone = [Contender("vendor", _trivial(vendor_sandbox, place, command))]
    for contender, open_sandbox in contenders.items():
        everyone.append(Contender(contender, _trivial(open_sandbox, place, command)))
    if limit:
        everyone.append(Contender("one round trip", canned(STATUS, place)))
    return Case(
        name=f"run/{name}",
        title=f'run("{command}"), {title}',
        contenders=tuple(everyone),
        targets=targets,
        small=(1, 0),
        full=(full, 0),
        rounds=11,
    )


def _vendor(metric: Any, least: float, of: str = "ours") -> Target:
    return Target(metric=metric, least=least, of=of)


_SSE = "ours, event stream"
_COLD = {"ours": our_websocket_sandbox}
_WARM = {
    "ours": our_sandbox,
    _SSE: our_sse_sandbox,
    "ours, prewarmed": our_prewarmed_sandbox,
}


def _run_cases() -> Iterator[Case]:
    yield _trivial_case("cold-ws", "a new WebSocket", "plain", (_vendor("p50", 1.9),), _COLD)
    yield _trivial_case(
        "cold-ws-late-fin",
        "a new WebSocket, closed late",
        "plain",
        (_vendor("p50", 10.0),),
        _COLD,
        command="late",
    )
    targets = (_vendor("p50", 8.0), _vendor("cpu", 10.0))
    yield _trivial_case("cold-wss", "a new WebSocket, TLS", "secure", targets, _COLD, full=10)
    targets = (_vendor("p50", 3.5),)
    yield _trivial_case("warm-ws", "warm", "plain", targets, _WARM)
    targets = (_vendor("p50", 45.0),)
    yield _trivial_case("warm-wss", "warm, TLS", "secure", targets, _WARM, full=10)
    targets = (Target(metric="p50", than="one round trip", most=1.15), _vendor("p50", 2.5))
    yield _trivial_case("far-ws", "warm, 20 ms away", "far", targets, _WARM, full=5, limit=True)
    targets = (_vendor("p50", 4.0),)
    yield _trivial_case("far-wss", "warm, TLS, 20 ms away", "far_secure", targets, _WARM, full=5)


CASES = (
    _streaming_case(
        "exec/small", "80 B frames, iterating", 80, (400, 20_000), 4.5, iterating=True
    ),
    _streaming_case(
        "exec/small-run", "80 B frames, run()", 80, (400, 20_000), 5.5, iterating=False
    ),
    _streaming_case(
        "exec/large", "64 KiB frames, iterating", 65536, (8, 1024), 1.5, iterating=True
    ),
    _streaming_case(
        "exec/large-run", "64 KiB frames, run()", 65536, (8, 1024), 1.1, iterating=False
    ),
    *_run_cases(),
    _sse_case("sse/large", "events of 32 KiB, iterating", 32768, (8, 512), 1.5),
    _sse_case("sse/small", "events of 80 B, iterating", 80, (200, 10_000), 6.0),
)  # fmt: skip
