"""Carrying out the ``sandbox`` command."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NoReturn

import anyio
import anyio.lowlevel

from sandbox_proto.config import env_value
from sandbox_proto.errors import CommandTimeoutError, LangSmithError

from ..background import background_tasks
from ..client import AsyncSandboxClient
from . import copy, record, shell, terminal, trace, tunnel
from .arguments import make_parser

USAGE = 2
COULD_NOT_RUN = 125
TIMED_OUT = 124


class _Refusal(Exception):
    """Something the user has to change; the text says what."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its status."""
    options = make_parser().parse_args(arguments)
    if options.subcommand in _WITHOUT_LOOP:
        sys.exit(_at_once(options))
    failure = COULD_NOT_RUN if options.subcommand in ("run", "shell") else 1
    from ..local.runtime.base import RuntimeUnavailableError

    try:
        status = anyio.run(_until_signalled, _ACTIONS[options.subcommand], options)
    except (LangSmithError, RuntimeUnavailableError, _Refusal, ValueError, OSError) as error:
        print(f"sandbox: {error}", file=sys.stderr)
        status = failure
    sys.stdout.flush()
    sys.exit(status)


def _at_once(options: argparse.Namespace) -> int:
    """Run what works on files and processes of this machine only."""
    try:
        return _WITHOUT_LOOP[options.subcommand](options)
    except (LangSmithError, record.RecordingRefused, ValueError, OSError) as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


async def _until_signalled(
    action: Callable[[argparse.Namespace], Awaitable[int]], options: argparse.Namespace
) -> int:
    """Run an action; a signal to end cancels it, a second one ends this process at once."""
    if options.subcommand == "serve":
        return await action(options)
    status = 0
    async with background_tasks() as tasks:

        async def watch() -> None:
            nonlocal status
            with anyio.open_signal_receiver(*_signals_to_end()) as signals:
                async for number in signals:
                    if not status:
                        status = 128 + number
                        scope.cancel()
                    elif number != signal.SIGHUP:  # which comes twice from some shells
                        terminal.restore()
                        os._exit(status)

        tasks.start_soon(watch)
        await anyio.lowlevel.checkpoint()
        with anyio.CancelScope() as scope:
            status = await action(options)
    return status


def _signals_to_end() -> list[signal.Signals]:
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` has it
        signals.append(signal.SIGHUP)
    return signals


@contextlib.asynccontextmanager
async def _client(options: argparse.Namespace) -> AsyncIterator[AsyncSandboxClient]:
    """A client of the configured API, or of a host that is started for it."""
    if env_value(os.environ, "ENDPOINT"):
        async with AsyncSandboxClient() as client:
            yield client
        return
    from ..local.launch import open_local_host

    async with (
        open_local_host(isolation=options.isolation) as host,
        AsyncSandboxClient(api_endpoint=host.endpoint, api_key=host.api_key) as client,
    ):
        if host.isolation == "none":
            print("sandbox: WARNING: isolation is off", file=sys.stderr)
        yield client


async def _run(options: argparse.Namespace) -> int:
    async with _client(options) as client, client.sandbox(snapshot=options.snapshot) as sandbox:
        try:
            result = await sandbox.run(
                options.command,
                timeout=options.timeout,
                env=dict(options.env) or None,
                cwd=options.cwd,
                shell="/bin/sh",
                on_stdout=_writer(sys.stdout.fileno()),
                on_stderr=_writer(sys.stderr.fileno()),
                max_output=0,  # it was shown already
            )
        except CommandTimeoutError as error:
            print(f"sandbox: {error}", file=sys.stderr)
            return TIMED_OUT
    return result.exit_code


def _writer(descriptor: int) -> Callable[[str], None]:
    def write(text: str) -> None:
        view = memoryview(text.encode())
        while view:
            view = view[os.write(descriptor, view) :]

    return write


async def _shell(options: argparse.Namespace) -> int:
    if not shell.is_on_terminal():
        return USAGE
    if options.name is not None:
        async with _remote_client() as client:
            return await shell.attend_shell(await client.get_sandbox(options.name), options.shell)
    async with _client(options) as client, client.sandbox() as sandbox:
        return await shell.attend_shell(sandbox, options.shell)


async def _serve(options: argparse.Namespace) -> int:
    from ..local.serve import ServeOptions, serve

    await serve(
        ServeOptions(
            port=options.port,
            api_key=options.api_key,
            state_dir=options.state,
            isolation=options.isolation,
            until_eof=options.until_eof,
        )
    )
    return 0


def _remote_client() -> AsyncSandboxClient:
    if not env_value(os.environ, "ENDPOINT"):
        raise _Refusal(
            "LANGSMITH_ENDPOINT is not set, so there is no host to ask; "
            "`sandbox serve` starts one and prints its endpoint"
        )
    return AsyncSandboxClient()


async def _ls(options: argparse.Namespace) -> int:
    async with _remote_client() as client:
        sandboxes = await client.list_sandboxes()
    if options.json:
        print(json.dumps([sandbox.raw for sandbox in sandboxes], indent=2))
        return 0
    rows = [("NAME", "STATUS", "CREATED", "ID")]
    rows += [(box.name, box.status, box.created_at or "", box.id or "") for box in sandboxes]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    return 0


async def _rm(options: argparse.Namespace) -> int:
    status = 0
    async with _remote_client() as client:
        for name in options.names:
            try:
                await client.delete_sandbox(name)
            except LangSmithError as error:
                print(f"sandbox: {error}", file=sys.stderr)
                status = 1
            else:
                print(name)
    return status


async def _cp(options: argparse.Namespace) -> int:
    async with _remote_client() as client:
        return await copy.copy(client, options)


async def _tunnel(options: argparse.Namespace) -> int:
    async with _remote_client() as client:
        return await tunnel.serve_tunnel(client, options)


async def _doctor(options: argparse.Namespace) -> int:
    from ..local.runtime import probe

    report = await probe()
    print("\n".join(report.lines()))
    endpoint = env_value(os.environ, "ENDPOINT")
    key = "set" if env_value(os.environ, "API_KEY") else "not set"
    print(f"\nendpoint: {endpoint or 'none: `sandbox run` starts a host of its own'}")
    print(f"API key: {key}")
    return 0 if report.usable else 1


_ACTIONS: dict[str, Callable[[argparse.Namespace], Awaitable[int]]] = {
    "run": _run,
    "shell": _shell,
    "serve": _serve,
    "ls": _ls,
    "rm": _rm,
    "cp": _cp,
    "tunnel": _tunnel,
    "doctor": _doctor,
}
_WITHOUT_LOOP: dict[str, Callable[[argparse.Namespace], int]] = {
    "record": record.record,
    "trace": trace.trace,
}
