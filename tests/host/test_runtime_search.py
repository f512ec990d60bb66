"""Searches in a real sandbox, as its host sees them: pipes, limits, standstill and the end."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from sandbox_anyio.local.runtime import HOME, RunningSandbox, SandboxDiedError, SandboxPathError

from ._runtime import open_descriptors, read_all, sandbox_in, shell

pytestmark = pytest.mark.anyio

# More findings than a pipe holds: a search that nobody reads goes on for as long as it may.
MANY = "yes needle | head -n 100000 > many"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def question(**more: Any) -> dict[str, Any]:
    return {
        "kind": "grep",
        "path": HOME,
        "match": None,
        "descend": None,
        "directories_only": False,
        "text": "needle",
        "limit": 100_000,
        "seconds": 30.0,
        "max_text": 2000,
        "max_bytes": 1 << 24,
        **more,
    }


async def said(sandbox: RunningSandbox, **more: Any) -> list[Any]:
    text = await read_all(await sandbox.search(question(**more)))
    return [json.loads(line) for line in text.splitlines()]


async def test_a_search_says_what_it_finds_and_then_that_it_is_over(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        await shell(sandbox, "echo a needle > f")
        assert await said(sandbox) == [["found", "f", 1, "a needle"], ["end", False]]
        assert await said(sandbox, path="/nowhere") == [["error", errno.ENOENT]]
        assert await said(sandbox, path="/proc") == [["error", errno.EACCES]]
        assert await said(sandbox, path="/proc/self/root") == [["error", errno.ELOOP]]


async def test_uploads_that_are_not_there_yet_are_not_found(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        pending = await sandbox.create_file(f"{HOME}/f")
        os.write(pending.fd, b"needle")
        assert await said(sandbox) == [["end", False]]
        await pending.commit()
        assert len(await said(sandbox)) == 2


async def test_too_many_at_a_time_are_refused_and_their_ends_make_room(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        await shell(sandbox, MANY)
        before = open_descriptors()
        pipes = []
        with pytest.raises(SandboxPathError) as refused:
            while len(pipes) < 100:
                pipes.append(await sandbox.search(question()))
        assert refused.value.errno == errno.EAGAIN
        assert 8 <= len(pipes) < 100
        for pipe in pipes:
            os.close(pipe)
        while True:
            try:
                assert len(await read_all(await sandbox.search(question(limit=1)))) > 10
            except SandboxPathError:
                await anyio.lowlevel.checkpoint()
            else:
                break
        assert open_descriptors() == before


async def test_a_standstill_and_a_search_do_not_hinder_each_other(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        await shell(sandbox, MANY)
        pipe = await sandbox.search(question())
        await anyio.wait_readable(pipe)
        async with sandbox.standstill():
            assert os.read(pipe, 10)
        lines = (await read_all(pipe)).splitlines()
        assert lines[-1] == b'["end",false]' and len(lines) > 99_000


async def test_a_search_ends_with_its_sandbox(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        await shell(sandbox, MANY)
        pipe = await sandbox.search(question())
        await sandbox.destroy()
        text = await read_all(pipe)
        assert not text.endswith(b"false]\n")
        with pytest.raises(SandboxDiedError):
            await sandbox.search(question())


async def test_a_search_has_no_more_rights_than_the_sandbox(tmp_path: Path) -> None:
    async with sandbox_in(tmp_path) as sandbox:
        await shell(sandbox, MANY)
        pipe = await sandbox.search(question())
        await anyio.wait_readable(pipe)
        rights = "grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/{}/status"
        of_search = await shell(sandbox, rights.format("$(pgrep -x search)"))
        of_command = await shell(sandbox, rights.format("self"))
        assert of_search.stdout == of_command.stdout and of_search.stdout.count("\n") == 3
        peek = await shell(sandbox, "ls /proc/$(pgrep -x search)/fd")
        os.close(pipe)
        assert peek.code != 0, "nobody looks into it"
