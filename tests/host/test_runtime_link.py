"""The host's side against supervisors that lie, flood, or fall silent."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from sandbox_anyio.local.runtime import (
    DEFAULT_PATH,
    CommandSpec,
    SandboxDiedError,
    SandboxPathError,
    SpawnError,
    link,
    messages,
)
from sandbox_anyio.local.runtime.sandbox import BubblewrapSandbox

from ._runtime import open_descriptors

pytestmark = pytest.mark.anyio
TRUE = CommandSpec(argv=("true",), env={})


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


class FakeSupervisor:
    """The other end of a link: the test says what it sends."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    async def receive(self) -> messages.Message:
        await anyio.wait_readable(self.socket)
        message = messages.receive(self.socket, spills=True)
        assert message is not None
        return message

    async def receive_end(self) -> None:
        await anyio.wait_readable(self.socket)
        assert messages.receive(self.socket) is None

    def send(self, *descriptors: int, **body: Any) -> None:
        messages.send(self.socket, body, descriptors)


@contextlib.asynccontextmanager
async def conversation() -> AsyncIterator[tuple[BubblewrapSandbox, FakeSupervisor]]:
    before = open_descriptors()
    with anyio.fail_after(10):
        ours, theirs = messages.socket_pair()
        made = link.SupervisorLink(ours)
        with theirs:
            theirs.setblocking(False)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(made.listen)
                fake = FakeSupervisor(theirs)
                fake.send(ready=True, home="/home/user")
                await made.ready.wait()
                yield BubblewrapSandbox(made, None, DEFAULT_PATH), fake
                made.shut_down()
                theirs.close()
    assert open_descriptors() == before


async def test_answers_find_their_questions(tmp_path: Path) -> None:
    async with conversation() as (sandbox, fake):
        results: dict[str, object] = {}

        async def ask(path: str) -> None:
            try:
                os.close(await sandbox.open_file(path))
            except SandboxPathError as error:
                results[path] = error.errno

        async with anyio.create_task_group() as tasks:
            for path in ("/a", "/b", "/c"):
                tasks.start_soon(ask, path)
            questions = [await fake.receive() for _ in range(3)]
            for number, question in enumerate(reversed(questions), start=1):
                fake.send(id=question.body["id"], refused="path", message="no", errno=number)
        order = [question.body["path"] for question in reversed(questions)]
        assert [results[path] for path in order] == [1, 2, 3]


@pytest.mark.parametrize(
    "packet",
    [
        b"no json",
        b"[1]",
        b'"text"',
        b"@",
        b"[" * 50_000,
        b'{"id":' + b"9" * 5000 + b"}",
        b"{}",
        b'{"id":77}',
        b'{"id":"1"}',
        b'{"exit":"one","code":0}',
        b'{"exit":1,"code":-1}',
        b'{"exit":1,"code":256}',
        b'{"exit":1}',
        b"\xff\xfe",
        b'{"exit":1,"code":0}' + b" " * messages.MAX_PACKET,
    ],
)
async def test_nonsense_ends_the_sandbox(packet: bytes) -> None:
    async with conversation() as (sandbox, fake):
        fake.socket.send(packet)
        await fake.receive_end()
        fake.socket.shutdown(socket.SHUT_WR)
        await sandbox.died.wait()
        with pytest.raises(SandboxDiedError):
            await sandbox.spawn(TRUE)


async def test_too_many_descriptors_end_the_sandbox() -> None:
    async with conversation() as (sandbox, fake):
        messages._send_packet(fake.socket, b'{"id":1}', [0] * 20)
        await fake.receive_end()
        fake.socket.shutdown(socket.SHUT_WR)
        await sandbox.died.wait()


async def _answer(fake: FakeSupervisor, *descriptors: int, **body: Any) -> None:
    question = await fake.receive()
    fake.send(*descriptors, id=question.body["id"], **body)
    question.close()


async def test_descriptors_are_taken_for_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    wrong = {
        "a directory": os.open("/", os.O_RDONLY),
        "a device": os.open("/dev/zero", os.O_RDONLY),
        "a pipe": os.pipe()[0],
        "writable": os.open(tmp_path / "file", os.O_RDWR),
        "a mere path": os.open(tmp_path / "file", os.O_PATH),
    }
    right = os.open(tmp_path / "file", os.O_RDONLY)
    for descriptors in ([], [right, right], *[[one] for one in wrong.values()]):
        async with conversation() as (sandbox, fake), anyio.create_task_group() as tasks:
            tasks.start_soon(_answer, fake, *descriptors)
            with pytest.raises(SandboxDiedError, match="broke the rules"):
                await sandbox.open_file("/x")
    async with conversation() as (sandbox, fake), anyio.create_task_group() as tasks:
        tasks.start_soon(_answer, fake, right)
        os.close(await sandbox.open_file("/x"))

    for descriptor in (*wrong.values(), right):
        async with conversation() as (sandbox, fake), anyio.create_task_group() as tasks:
            tasks.start_soon(_answer, fake, descriptor)
            with pytest.raises(SandboxDiedError, match="broke the rules"):
                await sandbox.spawn(CommandSpec(argv=("sh",), env={}, pty=True))
        async with conversation() as (sandbox, fake), anyio.create_task_group() as tasks:
            tasks.start_soon(_answer, fake, descriptor)
            with pytest.raises(SandboxDiedError, match="broke the rules"):
                await sandbox.open_socket("inet")


async def test_a_socket_of_another_kind_is_not_taken() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        async with conversation() as (sandbox, fake), anyio.create_task_group() as tasks:
            tasks.start_soon(_answer, fake, datagram.fileno())
            with pytest.raises(SandboxDiedError, match="broke the rules"):
                await sandbox.open_socket("inet")


async def test_strange_refusals_stay_short_and_typed() -> None:
    async with conversation() as (sandbox, fake), anyio.create_task_group() as tasks:
        tasks.start_soon(
            lambda: _answer(fake, refused=["x"], message={"a": "y" * 9000}, errno="five")
        )
        with pytest.raises(SpawnError) as caught:
            await sandbox.spawn(TRUE)
        assert len(str(caught.value)) <= 1000


async def test_a_silent_supervisor_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "_REPLY_SECONDS", 0.05)
    async with conversation() as (sandbox, fake):
        with pytest.raises(SandboxDiedError, match="does not answer"):
            await sandbox.spawn(TRUE)
        (await fake.receive()).close()
        with pytest.raises(SandboxDiedError):
            await sandbox.open_file("/x")


async def test_a_supervisor_that_reads_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link, "_REPLY_SECONDS", 0.2)
    async with conversation() as (sandbox, _):
        big = CommandSpec(argv=("x" * 50_000,), env={})

        async def ask() -> None:
            with pytest.raises(SandboxDiedError):
                await sandbox.spawn(big)

        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(ask)


async def test_a_cancelled_question_is_taken_back_and_its_answer_closed() -> None:
    async with conversation() as (sandbox, fake):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sandbox.create_file, "/x")
            question = await fake.receive()
            tasks.cancel_scope.cancel()
        retraction = await fake.receive()
        assert retraction.body == {
            "do": "abort",
            "command": question.body["id"],
            "upload": question.body["id"],
        }
        fake.send(0, id=question.body["id"])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_answer, fake)
            await sandbox.thaw()


async def test_a_flood_of_notices_does_not_starve_others() -> None:
    async with conversation() as (sandbox, fake):
        done = anyio.Event()

        async def flood() -> None:
            while not done.is_set():
                try:
                    fake.send(exit=999, code=0)
                except BlockingIOError:
                    await anyio.wait_writable(fake.socket)
                else:
                    await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flood)
            tasks.start_soon(_answer, fake)
            await sandbox.freeze()
            done.set()


async def test_long_messages_travel_in_memory_files() -> None:
    ours, theirs = messages.socket_pair()
    with ours, theirs:
        body = {"text": "ä" * 200_000}
        messages.send(ours, body, [0])
        message = messages.receive(theirs, spills=True)
        assert message is not None
        assert message.body == body
        assert len(message.descriptors) == 1
        assert not os.get_inheritable(message.descriptors[0])
        message.close()
        messages.send(ours, body)
        with pytest.raises(messages.ProtocolError):
            messages.receive(theirs)
