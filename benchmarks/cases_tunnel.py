"""Tunnels: an application here, in a process of its own, and the stand-in's services there."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.to_thread

from sandbox_anyio import masking
from sandbox_proto.machines.ws_masking import mask_by_tables, use_mask

from .clients import our_sandbox, vendor_sandbox
from .measuring import MIB, Case, Contender, Measure, Sample, Setting, Target

_PORT = 7000


@contextlib.asynccontextmanager
async def _our_tunnel(setting: Setting, place: str) -> AsyncIterator[int]:
    async with (
        our_sandbox(setting, place) as sandbox,
        sandbox.tunnel(_PORT, local_port="any") as tunnel,
    ):
        yield tunnel.local_port


@contextlib.asynccontextmanager
async def _vendor_tunnel(setting: Setting, place: str) -> AsyncIterator[int]:
    async with vendor_sandbox(setting, place) as sandbox:
        tunnel = await sandbox.tunnel(_PORT, local_port=_free_port())
        try:
            yield tunnel.local_port
        finally:
            # It waits five seconds for a thread of its own, which is no part of what is measured.
            threading.Thread(target=tunnel.close, daemon=True).start()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _apply(open_tunnel: Any, direction: str, streams: int, place: str = "plain") -> Measure:
    async def measure(setting: Setting) -> Sample:
        async with open_tunnel(setting, place) as port:
            told, cpu = await _application(port, direction, streams, setting)
        done = setting.count if direction == "echo" else 1
        assert told["bytes"] == (
            32 * done if direction == "echo" else setting.size // streams * streams
        )
        return Sample(
            wall=told["seconds"] / done,
            p50=told["p50"],
            cpu=cpu / done,
            amount=told["bytes"] / done,
        )

    return measure


async def _application(
    port: int, direction: str, streams: int, setting: Setting
) -> tuple[dict[str, Any], float]:
    """What the application measured, and the CPU time of this process meanwhile."""
    words = [direction, str(port), str(streams), str(setting.size), str(setting.count)]
    command = [sys.executable, "-m", "benchmarks.application", *words]
    cpu = time.process_time()
    done = await anyio.to_thread.run_sync(lambda: subprocess.run(command, capture_output=True))
    cpu = time.process_time() - cpu
    assert done.returncode == 0, done.stderr.decode()
    told: dict[str, Any] = json.loads(done.stdout)
    return told, cpu


def _masking(measure: Measure, *, numpy: bool) -> Measure:
    """As where numpy is installed and loaded (it is, after some megabytes), or is not installed."""

    async def measured(setting: Setting) -> Sample:
        usual = masking.numpy_mask
        mask = usual() if numpy else None
        masking.numpy_mask = lambda: mask  # type: ignore[assignment]  # instead of a cached one
        use_mask(mask or mask_by_tables)
        try:
            return await measure(setting)
        finally:
            masking.numpy_mask = usual
            use_mask(mask_by_tables)

    return measured


def _case(
    name: str,
    title: str,
    direction: str,
    streams: int,
    targets: tuple[Target, ...],
    *,
    place: str = "plain",
    small: tuple[int, int] = (2, MIB),
    full: tuple[int, int] = (1, 64 * MIB),
    rounds: int = 5,
) -> Case:
    usual = _apply(_our_tunnel, direction, streams, place)
    ours = _masking(usual, numpy=False)
    also = [Contender("ours, numpy", _masking(usual, numpy=True))] if direction == "up" else []
    return Case(
        name=f"tunnel/{name}",
        title=f"tunnel, {title}",
        contenders=(
            Contender("ours", ours),
            Contender("ours, trio", ours, "trio"),
            *also,
            Contender("vendor", _apply(_vendor_tunnel, direction, streams, place)),
        ),
        targets=targets,
        unit="B",
        small=small,
        full=full,
        rounds=rounds,
        fresh=True,
    )


def _wall(least: float) -> tuple[Target, ...]:
    return (Target(metric="wall", least=least),)


def _up(least: float) -> tuple[Target, ...]:
    return (*_wall(least), Target(metric="wall", of="ours, numpy", least=1.6))


CASES = (
    _case("down-1", "down, 1 stream", "down", 1, _wall(1.8)),
    _case("down-16", "down, 16 streams", "down", 16, _wall(2.4)),
    _case("up-1", "up, 1 stream", "up", 1, _up(1.15)),
    _case("up-16", "up, 16 streams", "up", 16, _up(1.0)),
    _case(
        "round-trip",
        "32 B there and back",
        "echo",
        1,
        (Target(metric="p50", least=0.95),),
        small=(10, 0),
        full=(500, 0),
        rounds=7,
    ),
    _case(
        "far-down",
        "down, 1 stream, 20 ms away",
        "down",
        1,
        _wall(8.5),
        place="far",
        full=(1, 24 * MIB),
        rounds=3,
    ),
    _case(
        "far-up",
        "up, 1 stream, 20 ms away",
        "up",
        1,
        _wall(0.95),
        place="far",
        small=(1, MIB // 4),
        full=(1, 16 * MIB),
        rounds=3,
    ),
)
