"""Moving bytes between a process and its entry in the command table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

import anyio

from sandbox_proto.host.commands import Command, CommandState
from sandbox_proto.host.environment import RunSettings

from .runtime.base import (
    CommandSpec,
    RunningCommand,
    RunningSandbox,
    SandboxDiedError,
    SpawnError,
)
from .wakeup import Signal

READ_BYTES = 64 * 1024
# How often a process that is held back is looked at again, in seconds.
_LAG_CHECK = 1.0


async def run_command(
    command: Command, sandbox: RunningSandbox, settings: RunSettings, changed: Signal
) -> None:
    """Run one command of the table from its start to its end.

    :param changed: set whenever the command changed.
    """
    message = command.message
    spec = CommandSpec(
        command.argv or (message.shell, "-c", message.command),
        settings.env,
        settings.work_dir,
        settings.user,
        message.pty,
    )
    try:
        process = await sandbox.spawn(spec)
    except (SpawnError, SandboxDiedError) as error:
        command.spawn_failed(str(error), now=anyio.current_time())
        return
    descriptors = {process.stdin, process.stdout}
    if process.stderr is not None:
        descriptors.add(process.stderr)
    try:
        await _attend(command, process, descriptors, changed)
    finally:
        for descriptor in descriptors:
            _close(descriptor)


async def _attend(
    command: Command, process: RunningCommand, descriptors: set[int], changed: Signal
) -> None:
    command.spawned(process.pid, now=anyio.current_time())
    outputs: Mapping[str, int | None] = {"stdout": process.stdout, "stderr": process.stderr}
    async with anyio.create_task_group() as tasks:
        for name, descriptor in outputs.items():
            if descriptor is None:
                command.output_ended(name, now=anyio.current_time())
            else:
                tasks.start_soon(_read_output, command, name, descriptor, changed)
        tasks.start_soon(_write_input, command, process, descriptors, changed)
        tasks.start_soon(_kill_when_asked, command, process, changed)
        command.exited(await process.wait(), now=anyio.current_time())
        while True:
            event = changed.event
            if command.state is CommandState.OVER:
                break
            await event.wait()
        tasks.cancel_scope.cancel()


async def _read_output(command: Command, name: str, descriptor: int, changed: Signal) -> None:
    while True:
        event = changed.event
        if not command.wants_output(name, now=anyio.current_time()):
            with anyio.move_on_after(_LAG_CHECK):
                await event.wait()
            continue
        try:
            data = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            await anyio.wait_readable(descriptor)
            continue
        except OSError:  # a terminal whose other side is closed
            data = b""
        if not data:
            command.output_ended(name, now=anyio.current_time())
            return
        command.output(name, data, now=anyio.current_time())
        await anyio.lowlevel.checkpoint()


async def _write_input(
    command: Command, process: RunningCommand, descriptors: set[int], changed: Signal
) -> None:
    os.set_blocking(process.stdin, False)
    while True:
        event = changed.event
        while command.pending_input:
            try:
                written = os.write(process.stdin, command.pending_input[0])
            except BlockingIOError:
                await anyio.wait_writable(process.stdin)
                continue
            except OSError:  # it closed its input; what more comes is ignored
                command.pending_input.clear()
                break
            rest = command.pending_input[0][written:]
            command.pending_input[:1] = [rest] if rest else []
            changed.set()
        if command.stdin_closed:
            if process.stdin != process.stdout:
                descriptors.discard(process.stdin)
                _close(process.stdin)
            return
        await event.wait()


async def _kill_when_asked(command: Command, process: RunningCommand, changed: Signal) -> None:
    while True:
        event = changed.event
        if command.wants_kill:
            await process.kill()
            return
        await event.wait()


def _close(descriptor: int) -> None:
    with suppress(OSError):
        anyio.notify_closing(descriptor)
    with suppress(OSError):
        os.close(descriptor)
