"""Small requests, many at a time, lists, and whole files."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from .clients import counters, our_client, our_sandbox, vendor_client, vendor_sandbox
from .measuring import MIB, Case, Contender, Loop, Measure, Sample, Setting, Target, timed, watched
from .raw import BOX, STATUS, blocking_read, blocking_status, blocking_write, canned
from .standin import box

NAME = "bench-0"
Call = Callable[[Any], Awaitable[object]]


def everywhere(measure: Measure, *, uvloop: bool = True) -> tuple[Contender, ...]:
    """Ours on each loop."""
    loops: list[Loop] = ["trio", "uvloop"] if uvloop else ["trio"]
    return (
        Contender("ours", measure),
        *(Contender(f"ours, {loop}", measure, loop, loop == "uvloop") for loop in loops),
    )


def _on_client(open_client: Any, call: Call, requests: int = 1) -> Measure:
    async def measure(setting: Setting) -> Sample:
        async with open_client(setting) as client:
            before = counters(setting)["requests"]
            sample = await timed(lambda: call(client), setting.count)
            made = counters(setting)["requests"] - before - 1
        assert made == requests * (setting.count + 1), f"{made} requests"
        return sample

    return measure


def _like_trio(metric: Any = "cpu") -> Target:
    return Target(metric=metric, of="ours, trio", than="ours", most=1.1)


async def _status(client: Any) -> None:
    assert (await client.get_sandbox_status(NAME)).status == "ready"


async def _get(client: Any) -> None:
    assert (await client.get_sandbox(NAME)).name == NAME


async def _create(client: Any) -> None:
    sandbox = await client.create_sandbox()
    await client.delete_sandbox(sandbox.name)


def _many(open_client: Any, tasks: int) -> Measure:
    async def measure(setting: Setting) -> Sample:
        async with open_client(setting) as client:

            async def some() -> None:
                for _ in range(setting.count // tasks):
                    await _status(client)

            async def call() -> None:
                async with anyio.create_task_group() as group:
                    for _ in range(tasks):
                        group.start_soon(some)

            sample = await timed(call, 1)
        made = setting.count // tasks * tasks
        return Sample(wall=sample.wall / made, p50=sample.p50 / made, cpu=sample.cpu / made)

    return measure


def _tasks_case(tasks: int, least: float) -> Case:
    contenders = (
        *everywhere(_many(our_client, tasks)),
        Contender("vendor", _many(vendor_client, tasks)),
    )
    targets = [Target(metric="wall", least=least), _like_trio()]
    if tasks == 64:
        contenders += (Contender("ours, 8 tasks", _many(our_client, 8)),)
        targets.append(Target(metric="wall", than="ours, 8 tasks", most=1 / 0.9))
    return Case(
        name=f"tasks/{tasks}",
        title=f"status requests, {tasks} task{'s' * (tasks > 1)}",
        contenders=contenders,
        targets=tuple(targets),
        small=(max(tasks, 2), 0),
        full=(256, 0),
    )  # fmt: skip


# --- lists ------------------------------------------------------------------------------


def _listing(open_client: Any) -> Measure:
    async def measure(setting: Setting) -> Sample:
        async with open_client(setting, boxes=str(setting.size)) as client:

            async def call() -> None:
                assert len(await client.list_sandboxes()) == setting.size

            return await timed(call, setting.count, setting.size)

    return measure


def _on_items(build: Callable[[list[Any]], list[Any]]) -> Measure:
    """Making objects of parsed JSON, without any network."""

    async def measure(setting: Setting) -> Sample:
        base = "http://127.0.0.1/dp/bench"
        items = [box(number, base) for number in range(setting.size)]

        async def call() -> None:
            assert len(build(items)) == setting.size

        return await timed(call, setting.count, setting.size)

    return measure


def _our_structuring(items: list[Any]) -> list[Any]:
    from sandbox_proto.wire.models import SandboxRecord

    return [SandboxRecord.parse(item) for item in items]


def _vendor_structuring(items: list[Any]) -> list[Any]:
    from langsmith.sandbox import AsyncSandbox as VendorSandbox

    return [VendorSandbox.from_dict(data=item, client=None) for item in items]


async def _json_alone(setting: Setting) -> Sample:
    base = "http://127.0.0.1/dp/bench"
    items = [box(number, base) for number in range(setting.size)]
    text = json.dumps({"sandboxes": items, "next_cursor": None}).encode()

    async def call() -> None:
        assert len(json.loads(text)["sandboxes"]) == setting.size

    return await timed(call, setting.count, setting.size)


# --- files ------------------------------------------------------------------------------


def _reading(open_sandbox: Any) -> Measure:
    async def measure(setting: Setting) -> Sample:
        async with open_sandbox(setting) as sandbox:
            assert len(await sandbox.read("/zeros-65536")) == 65536

            async def call() -> bytes:
                content: bytes = await sandbox.read(f"/zeros-{setting.size}")
                assert len(content) == setting.size
                return content

            return await watched(call, setting.size)

    return measure


def _writing(open_sandbox: Any) -> Measure:
    async def measure(setting: Setting) -> Sample:
        content = bytes(setting.size)
        async with open_sandbox(setting) as sandbox:
            await sandbox.write("/small", b"warm")
            before = counters(setting)["body_bytes"]
            sample = await watched(lambda: sandbox.write("/big", content), setting.size)
            sent = counters(setting)["body_bytes"] - before
        assert setting.size < sent < setting.size + 1024, f"{sent} bytes"
        return sample

    return measure


CASES = (
    Case(
        name="requests/status",
        title="get_sandbox_status",
        contenders=(
            *everywhere(_on_client(our_client, _status)),
            Contender("vendor", _on_client(vendor_client, _status)),
            Contender("canned", canned(STATUS)),
            Contender("blocking", blocking_status),
        ),
        targets=(
            Target(metric="cpu", least=3.0),
            Target(metric="p50", least=2.8),
            Target(metric="cpu", than="canned", most=3.5),
            _like_trio(),
        ),
        full=(60, 0),
        rounds=21,
    ),
    Case(
        name="requests/get",
        title="get_sandbox",
        contenders=(
            *everywhere(_on_client(our_client, _get)),
            Contender("vendor", _on_client(vendor_client, _get)),
            Contender("canned", canned(BOX)),
        ),
        targets=(
            Target(metric="cpu", least=3.0),
            Target(metric="p50", least=2.8),
            Target(metric="cpu", than="canned", most=3.5),
            _like_trio(),
        ),
        rounds=21,
    ),
    Case(
        name="requests/create",
        title="create_sandbox and delete_sandbox",
        contenders=(
            *everywhere(_on_client(our_client, _create, 2)),
            Contender("vendor", _on_client(vendor_client, _create, 2)),
        ),
        targets=(Target(metric="p50", least=2.4), _like_trio()),
        full=(25, 0),
        rounds=21,
    ),
    _tasks_case(1, 2.6),
    _tasks_case(8, 3.2),
    _tasks_case(64, 5.0),
    Case(
        name="list/500",
        title="list_sandboxes, 500 of them",
        contenders=(
            *everywhere(_listing(our_client)),
            Contender("vendor", _listing(vendor_client)),
            Contender("json.loads", _json_alone),
        ),
        targets=(
            Target(metric="p50", least=1.2),
            Target(metric="p50", than="json.loads", most=2.8),
            _like_trio(),
        ),
        unit="sandboxes",
        small=(1, 500),
        full=(8, 500),
    ),
    Case(
        name="list/structuring",
        title="objects of parsed JSON",
        contenders=(
            Contender("ours", _on_items(_our_structuring)),
            Contender("vendor", _on_items(_vendor_structuring)),
        ),
        targets=(Target(metric="cpu", most=1.0),),
        unit="sandboxes",
        small=(1, 500),
        full=(20, 500),
    ),
    Case(
        name="files/read",
        title="read 64 MiB",
        contenders=(
            *everywhere(_reading(our_sandbox), uvloop=False),
            Contender("vendor", _reading(vendor_sandbox)),
            Contender("blocking", blocking_read),
        ),
        targets=(
            Target(metric="wall", least=3.2),
            Target(metric="cpu", least=3.5),
            Target(metric="peak", than=None, most=1.1 * 64 * MIB),
            Target(metric="wall", than="blocking", most=1.25),
            _like_trio(),
        ),
        unit="B",
        small=(1, MIB),
        full=(1, 64 * MIB),
        rounds=9,
        fresh=True,
    ),
    Case(
        name="files/write",
        title="write 64 MiB",
        contenders=(
            *everywhere(_writing(our_sandbox), uvloop=False),
            Contender("vendor", _writing(vendor_sandbox)),
            Contender("blocking", blocking_write),
        ),
        targets=(
            Target(metric="wall", least=3.5),
            Target(metric="cpu", least=5.0),
            Target(metric="peak", than=None, most=2.0 * MIB),
            Target(metric="wall", than="blocking", most=1.25),
            _like_trio(),
        ),
        unit="B",
        small=(1, MIB),
        full=(1, 64 * MIB),
        rounds=9,
        fresh=True,
    ),
)
