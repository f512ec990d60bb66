"""The whole story against the real host, on either loop: create, run, write, read, list, delete."""

from __future__ import annotations

import os

import anyio
import pytest

from sandbox_anyio import (
    AsyncSandboxClient,
    CommandTimeoutError,
    ResourceNotFoundError,
    SandboxClientError,
    SandboxOperationError,
    ValidationError,
)

pytestmark = pytest.mark.anyio


async def test_create_run_write_read_list_delete(client: AsyncSandboxClient) -> None:
    sandbox = await client.create_sandbox()
    result = await sandbox.run("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
    assert not result.success and result.complete

    content = os.urandom(1024 * 1024)
    await sandbox.write("/home/user/blob", content)
    assert await sandbox.read("/home/user/blob") == content

    assert sandbox.name in [box.name for box in await client.list_sandboxes()]
    assert (await client.get_sandbox(sandbox.name)).id == sandbox.id
    assert (await client.get_sandbox_status(sandbox.name)).status == "ready"
    assert (await client.wait_for_sandbox(sandbox.name)).status == "ready"

    await sandbox.delete()
    assert sandbox.name not in [box.name for box in await client.list_sandboxes()]
    with pytest.raises(ResourceNotFoundError) as missing:
        await client.get_sandbox(sandbox.name)
    assert missing.value.resource_type == "sandbox"


@pytest.mark.parametrize(
    "name",
    ["plain", "with space", "grüße-日本-🎉", "100%2Fslash", "semi;colon&and=more?#", "new\nline"],
)
async def test_file_names_arrive_as_they_are(client: AsyncSandboxClient, name: str) -> None:
    async with client.sandbox() as sandbox:
        await sandbox.write(f"deep/er/{name}", name)
        assert await sandbox.read(f"/home/user/deep/er/{name}") == name.encode()
        listed = await sandbox.run("ls -b deep/er | wc -l; cat deep/er/*")
        assert listed.stdout == f"1\n{name}"


async def test_reading_what_is_not_there_names_the_file(client: AsyncSandboxClient) -> None:
    async with client.sandbox() as sandbox:
        with pytest.raises(ResourceNotFoundError, match="/nowhere") as missing:
            await sandbox.read("/nowhere")
        assert missing.value.resource_type == "file"
        with pytest.raises(SandboxOperationError) as refused:
            await sandbox.write("/tmp", "a directory")
        assert refused.value.operation == "write"


async def test_the_block_deletes_with_and_without_the_inner_await(
    client: AsyncSandboxClient,
) -> None:
    async with client.sandbox() as entered:
        assert entered.status == "ready"
    async with await client.sandbox() as awaited:
        assert awaited.status == "ready"
    names = [box.name for box in await client.list_sandboxes()]
    assert entered.name not in names and awaited.name not in names


async def test_other_sandboxes_are_not_deleted_by_a_block(client: AsyncSandboxClient) -> None:
    created = await client.create_sandbox()
    async with created, await client.get_sandbox(created.name):
        pass
    await client.delete_sandbox(created.name)


async def test_the_body_of_a_block_may_delete_and_may_fail(client: AsyncSandboxClient) -> None:
    with pytest.raises(ZeroDivisionError):
        async with client.sandbox() as sandbox:
            await sandbox.delete()
            raise ZeroDivisionError


async def test_callbacks_get_each_stream_and_may_be_async(client: AsyncSandboxClient) -> None:
    heard: list[tuple[str, str]] = []

    async def on_stderr(text: str) -> None:
        await anyio.lowlevel.checkpoint()
        heard.append(("stderr", text))

    async with client.sandbox() as sandbox:
        result = await sandbox.run(
            "echo one; echo two >&2",
            on_stdout=lambda text: heard.append(("stdout", text)),
            on_stderr=on_stderr,
        )
    assert sorted(heard) == [("stderr", "two\n"), ("stdout", "one\n")]
    assert (result.stdout, result.stderr) == ("one\n", "two\n")


async def test_environment_directory_shell_and_run_config(client: AsyncSandboxClient) -> None:
    async with client.sandbox(run_config={"env_vars": {"LAYER": "box", "BASE": "kept"}}) as sandbox:
        plain = await sandbox.run("echo $LAYER $BASE $0; pwd; echo $HOME")
        assert plain.stdout == "box kept /bin/bash\n/home/user\n/home/user\n"
        own = await sandbox.run(
            "echo $LAYER $0; pwd", env={"LAYER": "own"}, cwd="/tmp", shell="/bin/sh"
        )
        assert own.stdout == "own /bin/sh\n/tmp\n"
        config = {"env_vars": {"LAYER": "run"}, "work_dir": "/usr"}
        assert (await sandbox.run("echo $LAYER; pwd", run_config=config)).stdout == "run\n/usr\n"
        with pytest.raises(ValueError, match="run_config"):
            await sandbox.run("true", run_config=config, env={})


async def test_what_cannot_start_is_an_error_and_what_cannot_run_is_a_result(
    client: AsyncSandboxClient,
) -> None:
    async with client.sandbox() as sandbox:
        for settings in ({"shell": "/no/shell"}, {"cwd": "/no/dir"}):
            with pytest.raises(SandboxOperationError) as refused:
                await sandbox.run("true", **settings)
            assert refused.value.operation == "command"
        assert (await sandbox.run("no-such-program")).exit_code == 127
        assert (await sandbox.run("kill -9 $$")).exit_code == 137


async def test_the_time_limit_ends_the_command(client: AsyncSandboxClient) -> None:
    async with client.sandbox() as sandbox:
        with anyio.fail_after(20), pytest.raises(CommandTimeoutError) as late:
            await sandbox.run("sleep 1000", timeout=1)
        assert late.value.timeout == 1
        assert (await sandbox.run("pgrep -x sleep")).exit_code == 1


async def test_output_of_any_size_and_script_arrives_whole(client: AsyncSandboxClient) -> None:
    async with client.sandbox() as sandbox:
        result = await sandbox.run(
            "python3 -c 'import sys; sys.stdout.write(\"é🎉x\" * 300_000)'", timeout=50
        )
    assert result.stdout == "é🎉x" * 300_000
    assert result.complete


async def test_a_handle_streams_and_takes_input(client: AsyncSandboxClient) -> None:
    async with client.sandbox() as sandbox:
        handle = await sandbox.run(
            "while read line; do echo got $line; done", wait=False, close_input=False
        )
        assert handle.pid
        await handle.send_input("one\n")
        first = await anext(handle)
        assert (first.stream, first.data, first.offset) == ("stdout", "got one\n", 0)
        await handle.send_input("two\n")
        await handle.close_input()
        rest = "".join([chunk.data async for chunk in handle])
        assert rest == "got two\n"
        assert (await handle.result).stdout == "got one\ngot two\n"
        assert handle.last_stdout_offset == len("got one\ngot two\n")
        with pytest.raises(SandboxOperationError):
            await handle.send_input("late")


async def test_kill_returns_the_result(client: AsyncSandboxClient) -> None:
    async with client.sandbox() as sandbox:
        handle = await sandbox.run("echo before; sleep 1000 & sleep 1000", wait=False)
        assert (await anext(handle)).data == "before\n"
        with anyio.fail_after(10):
            await handle.kill()
            result = await handle.result
        assert (result.stdout, result.exit_code) == ("before\n", 137)
        assert (await sandbox.run("pgrep -x sleep")).exit_code == 1


async def test_a_command_is_reattached_from_elsewhere(client: AsyncSandboxClient) -> None:
    async with client.sandbox() as sandbox:
        first = await sandbox.run(
            "echo early; read line; echo late $line", wait=False, close_input=False
        )
        assert (await anext(first)).data == "early\n"
        second = await sandbox.reconnect(first.command_id)
        await second.send_input("x\n")
        assert (await second.result).stdout == "early\nlate x\n"
        third = await first.reconnect()
        assert (await third.result).stdout == "late x\n"
        with pytest.raises(SandboxOperationError) as unknown:
            await (await sandbox.reconnect("no-such-command")).result
        assert unknown.value.error_type == "CommandNotFound"


async def test_names_are_unique_and_checked(client: AsyncSandboxClient) -> None:
    async with client.sandbox(name="taken") as sandbox:
        assert sandbox.name == "taken"
        with pytest.raises(SandboxClientError) as conflict:
            await client.create_sandbox(name="taken")
        assert conflict.value.status == 409
        with pytest.raises(ValidationError) as invalid:
            await client.create_sandbox(name="Not A Name")
        assert invalid.value.field == "name"
        for name in ("", ".", ".."):
            with pytest.raises(ValueError, match="name"):
                await client.get_sandbox(name)


async def test_a_wrong_key_is_an_authentication_error(client: AsyncSandboxClient) -> None:
    from sandbox_anyio import SandboxAuthenticationError

    async with AsyncSandboxClient(
        api_endpoint=client.config.api_endpoint, api_key="wrong-key", trust_env=False
    ) as stranger:
        with pytest.raises(SandboxAuthenticationError) as refused:
            await stranger.list_sandboxes()
        assert refused.value.status == 401
        assert "wrong-key" not in repr(stranger) + str(refused.value) + repr(refused.value.context)
