"""Lifecycle, snapshots, iterators and registries against the real host, on either loop."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from sandbox_anyio import (
    AsyncSandbox,
    AsyncSandboxClient,
    ResourceCreationError,
    ResourceNameConflictError,
    ResourceNotFoundError,
    SandboxConnectionError,
    SandboxNotReadyError,
    Snapshot,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sandbox(client: AsyncSandboxClient) -> AsyncIterator[AsyncSandbox]:
    async with client.sandbox() as sandbox:
        yield sandbox


# --- lifecycle ------------------------------------------------------------------------


async def test_files_survive_a_stop_and_processes_do_not(
    client: AsyncSandboxClient, sandbox: AsyncSandbox
) -> None:
    await sandbox.write("kept", b"kept")
    await sandbox.run("sleep 1000", wait=False)
    await sandbox.stop()
    assert sandbox.status == "stopped"
    assert (await client.get_sandbox(sandbox.name)).stopped_at is not None
    await sandbox.start()
    assert sandbox.status == "ready"
    assert await sandbox.read("kept") == b"kept"
    assert (await sandbox.run("pgrep -x sleep")).exit_code == 1


async def test_without_persistence_a_stop_forgets_the_files(client: AsyncSandboxClient) -> None:
    async with client.sandbox(persistent=False) as sandbox:
        await sandbox.write("gone", b"gone")
        await sandbox.stop()
        await sandbox.start()
        with pytest.raises(ResourceNotFoundError):
            await sandbox.read("gone")


@pytest.mark.parametrize("way", ["run", "read", "write"])
async def test_using_a_stopped_sandbox_wakes_it(
    client: AsyncSandboxClient, sandbox: AsyncSandbox, way: str
) -> None:
    await sandbox.write("file", b"content")
    await client.stop_sandbox(sandbox.name)
    match way:
        case "run":
            assert (await sandbox.run("cat file")).stdout == "content"
        case "read":
            assert await sandbox.read("file") == b"content"
        case _:
            await sandbox.write("file", b"new")
    assert (await client.get_sandbox_status(sandbox.name)).status == "ready"


async def test_a_change_shows_at_once_and_counts_for_later_commands(
    client: AsyncSandboxClient, sandbox: AsyncSandbox
) -> None:
    changed = await client.update_sandbox(
        sandbox.name,
        new_name=f"{sandbox.name}-new",
        idle_ttl_seconds=600,
        delete_after_stop_seconds=0,
        run_config={"env_vars": {"ADDED": "yes"}},
    )
    assert changed.name == f"{sandbox.name}-new"
    assert (changed.idle_ttl_seconds, changed.delete_after_stop_seconds) == (600, 0)
    assert changed.id == sandbox.id
    with pytest.raises(ResourceNotFoundError):
        await client.get_sandbox(sandbox.name)
    assert (await changed.run("echo $ADDED")).stdout == "yes\n"
    async with client.sandbox() as other:
        with pytest.raises(ResourceNameConflictError):
            await client.update_sandbox(changed.name, new_name=other.name)
    with pytest.raises(ValueError, match="idle_ttl_seconds"):
        await client.update_sandbox(changed.name, idle_ttl_seconds=61)
    await client.update_sandbox(changed.name, new_name=sandbox.name)  # for who deletes it


async def test_a_sandbox_can_be_had_before_it_is_ready(client: AsyncSandboxClient) -> None:
    early = await client.create_sandbox(wait_for_ready=False)
    try:
        ready = await client.wait_for_sandbox(early.name, poll_interval=0.05)
        assert ready.status == "ready"
        if early.dataplane_url is None:
            with pytest.raises(SandboxNotReadyError):
                await early.run("true")
    finally:
        await client.delete_sandbox(early.name)


async def test_what_was_deleted_is_gone_for_everybody(client: AsyncSandboxClient) -> None:
    sandbox = await client.create_sandbox()
    handle = await sandbox.run("sleep 1000", wait=False)
    await sandbox.delete()
    with anyio.fail_after(20):
        print(await handle.result)
    for call in (sandbox.delete, sandbox.stop, sandbox.start):
        with pytest.raises(ResourceNotFoundError):
            await call()
    with pytest.raises(SandboxConnectionError, match="there is no sandbox"):
        await sandbox.run("true")


# --- snapshots ------------------------------------------------------------------------


async def forget(client: AsyncSandboxClient, *snapshots: Snapshot) -> None:
    for snapshot in snapshots:
        await client.delete_snapshot(snapshot.id)


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
async def test_a_capture_is_what_was_there_and_both_go_on_apart(
    client: AsyncSandboxClient, sandbox: AsyncSandbox, stopped: bool, anyio_backend: str
) -> None:
    await sandbox.write("/home/user/deep/file", b"before")
    await sandbox.run("rm /etc/hostname; ln -s deep/file link; touch /tmp/scratch")
    if stopped:
        await sandbox.stop()
    name = f"captured/{anyio_backend}-{'stopped' if stopped else 'running'}"
    snapshot = await sandbox.capture_snapshot(name)
    assert (snapshot.status, snapshot.name) == ("ready", name)
    await sandbox.write("/home/user/deep/file", b"after")
    async with client.sandbox(snapshot=f"{name}:latest") as copy:
        assert await copy.read("/home/user/link") == b"before"
        assert (await copy.run("ls /etc/hostname /tmp/scratch")).stdout == ""
        await copy.write("/home/user/deep/file", b"its own")
    assert await sandbox.read("/home/user/deep/file") == b"after"
    with pytest.raises(ResourceNotFoundError):
        await client.get_snapshot(f"{name}:other")
    await forget(client, snapshot)


async def test_a_running_command_goes_on_after_a_capture(
    client: AsyncSandboxClient, sandbox: AsyncSandbox
) -> None:
    handle = await sandbox.run("while read x; do echo $x; done", wait=False, close_input=False)
    snapshot = await sandbox.capture_snapshot("captured/busy")
    await handle.send_input("still here\n")
    assert (await anext(handle)).data == "still here\n"
    await forget(client, snapshot)


async def test_snapshots_stand_on_each_other(client: AsyncSandboxClient) -> None:
    made: list[Snapshot] = []
    source = await client.create_sandbox()
    for step in range(4):
        await source.write(f"step-{step}", str(step))
        made.append(await source.capture_snapshot("captured/steps"))
        await source.delete()
        source = await client.create_sandbox(made[-1].id)
    assert (await source.run("cat step-*")).stdout == "0123"
    await source.delete()
    # The upper ones keep what they need of the lower ones.
    await forget(client, *made[:3])
    async with client.sandbox(snapshot_name="captured/steps") as last:
        assert (await last.run("cat step-*")).stdout == "0123"
    await forget(client, made[3])


async def test_a_tag_moves_to_the_newest_and_all_three_references_find_it(
    client: AsyncSandboxClient, sandbox: AsyncSandbox
) -> None:
    first = await client.capture_snapshot(
        sandbox.name, "captured/tagged", tag="v1", description="the first", labels={"a": "b"}
    )
    assert (first.description, first.labels) == ("the first", {"a": "b"})
    second = await client.capture_snapshot(sandbox.name, "captured/tagged", tag="v1")
    for reference, found in {
        first.id: first.id,
        second.id: second.id,
        "captured/tagged:v1": second.id,
    }.items():
        assert (await client.get_snapshot(reference)).id == found
    tags = await client.list_snapshot_tags("captured/tagged")
    assert [(tag.tag, tag.snapshot_id) for tag in tags] == [("v1", second.id)]
    names = [snapshot.id for snapshot in await client.list_snapshots(name_contains="d/tagged")]
    assert names == [second.id, first.id]
    walked = [s.id async for s in client.iter_snapshots(name_contains="d/tagged", page_size=1)]
    assert walked == names
    await forget(client, first, second)
    with pytest.raises(ResourceNotFoundError):
        await client.get_snapshot("captured/tagged:v1")


async def test_the_systems_snapshot_is_there(client: AsyncSandboxClient) -> None:
    snapshot = await client.get_snapshot("system/default:latest")
    assert snapshot.status == "ready"
    async with client.sandbox(snapshot="system/default:latest") as sandbox:
        assert (await sandbox.run("echo here")).stdout == "here\n"


async def test_an_unknown_image_fails_with_its_reason(client: AsyncSandboxClient) -> None:
    with pytest.raises(ResourceCreationError, match="no-such-file"):
        await client.create_snapshot("images/none", "oci:/no-such-file", 1 << 30)
    [failed] = await client.list_snapshots(name_contains="images/none")
    assert failed.status == "failed"
    assert "no-such-file" in (failed.status_message or "")
    await forget(client, failed)


# --- lists ----------------------------------------------------------------------------


async def test_lists_are_filtered_sorted_and_paged_by_the_server(
    client: AsyncSandboxClient, anyio_backend: str
) -> None:
    made = [
        await client.create_sandbox(
            name=f"paged-{anyio_backend}-{number}",
            wait_for_ready=False,
            labels={"parity": str(number % 2), **({"last": ""} if number == 4 else {})},
        )
        for number in range(5)
    ]
    try:

        async def names(**options: object) -> list[str]:
            found = client.iter_sandboxes(name_contains=f"paged-{anyio_backend}", **options)  # type: ignore[arg-type]
            return [box.name.rpartition("-")[2] async for box in found]

        assert await names(page_size=2) == ["4", "3", "2", "1", "0"]
        assert await names(sort_by="name", sort_order="asc") == ["0", "1", "2", "3", "4"]
        assert await names(labels={"parity": "0"}, page_size=1) == ["4", "2", "0"]
        assert await names(labels={"last": None}) == ["4"]
        assert await names(status="stopped") == []
    finally:
        for box in made:
            await client.delete_sandbox(box.name)


# --- registries -----------------------------------------------------------------------


async def test_registries_are_kept_and_never_tell_their_password(
    client: AsyncSandboxClient, anyio_backend: str
) -> None:
    name = f"registry-{anyio_backend}"
    made = await client.registries.create(
        name=name, url="https://registry.example", username="me", password="secret-word"
    )
    assert "secret-word" not in repr(made) + repr(made.raw)
    with pytest.raises(ResourceNameConflictError):
        await client.registries.create(name=name, url="https://registry.example")
    await client.registries.update(name, body_name=f"{name}-new")
    assert (await client.registries.retrieve(f"{name}-new")).id == made.id
    assert made.id in [registry.id for registry in (await client.registries.list()).items]
    await client.registries.delete(f"{name}-new")
    with pytest.raises(ResourceNotFoundError):
        await client.registries.retrieve(f"{name}-new")
