"""Sockets as byte streams: the same waiting by asyncio's own means and by anyio's."""

from __future__ import annotations

import asyncio
import gc
import queue
import socket
import threading
import weakref
from collections.abc import Callable, Iterator

import anyio
import anyio.lowlevel
import pytest

from sandbox_anyio.anyio_waiting import AnyioWaiting
from sandbox_anyio.network import ByteStream
from sandbox_anyio.socket_stream import SocketStream, socket_stream

pytestmark = pytest.mark.anyio

Make = Callable[[socket.socket], ByteStream]
SOON = 0.01


@pytest.fixture(params=["the loop's", "anyio's"])
def make(request: pytest.FixtureRequest) -> Make:
    """What makes a stream of a socket. On trio both are the same."""
    return socket_stream if request.param == "the loop's" else SocketStream


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        yield near, far


async def looks(stream: ByteStream, *, readable: bool = True, writable: bool = False) -> bool:
    """Whether a wait is over before its time."""
    until = anyio.current_time() + SOON
    await stream.wait(readable=readable, writable=writable, until=until)
    return anyio.current_time() < until


async def test_the_loop_that_runs_decides(
    pair: tuple[socket.socket, socket.socket], anyio_backend_name: str
) -> None:
    stream = socket_stream(pair[0])
    assert (type(stream) is SocketStream) == (anyio_backend_name == "trio")
    stream.close()


async def test_waiting(make: Make, pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    stream = make(near)
    for _ in range(3):
        assert not await looks(stream)
        assert await looks(stream, writable=True)
        assert await looks(stream, readable=False, writable=True)
        assert not await looks(stream, readable=False)
        far.send(b"x")
        assert await looks(stream)
        assert await looks(stream)  # nobody has read yet
        assert stream.try_receive() == b"x"
        assert stream.try_receive() is None
    while stream.try_send(b"x" * 65536):
        pass
    assert not await looks(stream, writable=True)
    far.recv(1 << 22)
    assert await looks(stream, writable=True)
    far.close()
    assert await looks(stream)
    stream.close()


async def test_a_moment_that_has_passed(
    make: Make, pair: tuple[socket.socket, socket.socket]
) -> None:
    stream, ran = make(pair[0]), False

    async def other() -> None:
        nonlocal ran
        ran = True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        for _ in range(20):  # trio lets tasks run in any order
            await stream.wait(readable=True, writable=False, until=anyio.current_time() - 1)
        assert ran
    stream.close()


@pytest.mark.parametrize("readable", [True, False])
async def test_waking_and_closing(
    make: Make, pair: tuple[socket.socket, socket.socket], readable: bool
) -> None:
    stream = make(pair[0])

    async def soon(deed: Callable[[], None]) -> None:
        await anyio.lowlevel.checkpoint()
        deed()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(soon, stream.interrupt)
            await stream.wait(readable=readable, writable=False, until=None)
        if not readable and isinstance(stream, SocketStream):
            stream.close()  # there anyio knows of nobody to be told
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(soon, stream.close)
            with pytest.raises(OSError, match="closed on this side"):
                await stream.wait(readable=readable, writable=False, until=None)
        with pytest.raises(OSError, match="closed on this side"):
            await stream.wait(readable=readable, writable=False, until=None)
        stream.close()


async def test_cancelled_although_all_is_ready(
    make: Make, pair: tuple[socket.socket, socket.socket]
) -> None:
    stream = make(pair[0])
    pair[1].send(b"x")
    for readable, writable in [(True, False), (False, True), (True, True)]:
        assert await looks(stream)  # and is not read: the loop has more to say of it already
        with anyio.CancelScope() as scope:
            scope.cancel()
            await stream.wait(readable=readable, writable=writable, until=None)
        assert scope.cancelled_caught
    assert await looks(stream)
    stream.close()


@pytest.mark.parametrize("patience", [None, 5.0])
async def test_cancelled_although_what_was_waited_for_happens(patience: float | None) -> None:
    async def happen() -> None:
        event.set()

    event = AnyioWaiting().event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(happen)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await event.wait(None if patience is None else anyio.current_time() + patience)
        assert scope.cancelled_caught


async def test_two_directions_and_no_third(
    make: Make, pair: tuple[socket.socket, socket.socket]
) -> None:
    near, far = pair
    stream = make(near)
    while stream.try_send(b"x" * 65536):
        pass
    done: list[str] = []

    async def wait(direction: str) -> None:
        await stream.wait(readable=direction == "in", writable=direction == "out", until=None)
        done.append(direction)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, "in")
            tasks.start_soon(wait, "out")
            await anyio.wait_all_tasks_blocked()
            for direction in ("in", "out"):
                with pytest.raises(anyio.BusyResourceError):
                    await wait(direction)
            far.send(b"x")
            while not done:
                await anyio.lowlevel.checkpoint()
            assert done == ["in"]
            far.recv(1 << 22)
    assert done == ["in", "out"]
    stream.close()


def test_what_nobody_reads_does_not_keep_the_loop_busy(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair

    async def main() -> int:
        loop = asyncio.get_running_loop()
        stream = socket_stream(near)
        far.send(b"x")
        await stream.wait(readable=True, writable=False, until=None)
        rounds = 0
        selector = loop._selector  # type: ignore[attr-defined]
        select = selector.select

        def counted(timeout: float | None = None) -> object:
            nonlocal rounds
            rounds += 1
            return select(timeout)

        selector.select = counted
        await asyncio.sleep(5 * SOON)
        selector.select = select
        stream.close()
        return rounds

    assert asyncio.run(main()) < 10


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_dropped_stream_leaves_its_loop() -> None:
    """A socket that is gone must not stay in the selector: its number may be another's."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        near.setblocking(False)
        stream, known = socket_stream(near), weakref.ref(near)
        await stream.wait(readable=True, writable=False, until=loop.time())
        number = near.fileno()
        assert number in loop._selector.get_map()  # type: ignore[attr-defined]
        del near
        del stream
        gc.collect()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert known() is None
        assert number not in loop._selector.get_map()  # type: ignore[attr-defined]
        far.close()

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_one_that_never_waited_is_gone_at_once() -> None:
    """Without the garbage collector: nothing of it stands in a circle."""

    async def main() -> None:
        near, far = socket.socketpair()
        stream, known = socket_stream(near), weakref.ref(near)
        del near
        gc.disable()
        try:
            del stream
            assert known() is None
        finally:
            gc.enable()
        far.close()

    asyncio.run(main())


@pytest.mark.parametrize("loops", [("asyncio", "asyncio"), ("asyncio", "trio", "asyncio")])
def test_a_stream_may_go_on_in_another_loop(
    pair: tuple[socket.socket, socket.socket], loops: tuple[str, ...]
) -> None:
    near, far = pair
    streams: list[ByteStream] = []

    async def use() -> None:
        if not streams:
            streams.append(socket_stream(near))
        for _ in range(2):
            assert not await looks(streams[0])
            far.send(b"x")
            assert await looks(streams[0])
            assert streams[0].try_receive() == b"x"

    for loop in loops:
        anyio.run(use, backend=loop)

    async def end() -> None:
        streams[0].close()

    anyio.run(end)


def test_a_loop_that_lives_on_elsewhere_is_left() -> None:
    """While another thread's loop has the socket, it is that loop that takes it out."""
    near, far = socket.socketpair()
    near.setblocking(False)
    left = threading.Event()

    async def elsewhere(streams: queue.Queue[ByteStream]) -> None:
        stream = socket_stream(near)
        await looks(stream)
        loop = asyncio.get_running_loop()
        selector = loop._selector  # type: ignore[attr-defined]
        number = near.fileno()
        assert number in selector.get_map()
        streams.put(stream)
        while number in selector.get_map():  # noqa: ASYNC110 - the selector tells nobody
            await asyncio.sleep(0)
        left.set()

    async def here(stream: ByteStream) -> None:
        far.send(b"x")
        assert await looks(stream)

    streams: queue.Queue[ByteStream] = queue.Queue()
    thread = threading.Thread(target=asyncio.run, args=(elsewhere(streams),))
    thread.start()
    stream = streams.get(timeout=5)
    asyncio.run(here(stream))
    assert left.wait(5)
    thread.join()
    near.close()
    far.close()
