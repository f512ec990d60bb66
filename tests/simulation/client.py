"""One simulated user: a client, some workers who share it, and their random work."""

from __future__ import annotations

import random
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import anyio
import attrs

from sandbox_anyio import (
    AsyncSandboxClient,
    CommandTimeoutError,
    RetryPolicy,
    SandboxClientError,
    SandboxProtocolError,
    SandboxTimeoutError,
)
from sandbox_proto.plans.pool import PoolLimits, SlotState
from sandbox_proto.wire.command_models import OutputChunk

from .scripts import ECHO_PORT, Say, text_of, without
from .world import Made, World

T = TypeVar("T")

# By when a call must be over, in virtual seconds: all its patience, one after the other.
CONTROL_LIMIT, CREATE_LIMIT, FILE_LIMIT = 400.0, 900.0, 1200.0
RUN_MARGIN, TUNNEL_LIMIT = 600.0, 600.0
# How long a call may take to end once it is cancelled: the longest shield, and a little.
CANCEL_LIMIT = 11.0


@attrs.define
class Outcome(Generic[T]):
    """How a call ended.

    :ivar closed: its client was closed meanwhile.
    """

    value: T | None = None
    error: Exception | None = None
    cancelled: bool = False
    closed: bool = False

    @property
    def done(self) -> bool:
        return self.error is None and not self.cancelled


@attrs.define(eq=False)
class Owned:
    """A sandbox of a worker's.

    :ivar files: path -> what may be in it.
    """

    sandbox: Any
    call: str
    files: dict[str, set[bytes | None]] = attrs.field(factory=dict)


class User:
    """A client with its workers."""

    def __init__(self, world: World, number: int, *, record: str | None = None) -> None:
        self.world, self.number = world, number
        self.chance = random.Random(f"user {world.seed} {number}")
        self.closings = 0
        self.busy = 0
        self._record = record
        self.client = self._new_client()

    def _new_client(self) -> AsyncSandboxClient:
        more: dict[str, Any] = {}
        if self._record is not None:
            more["record"] = f"{self._record}-{self.number}-{self.closings}.jsonl"
        client = AsyncSandboxClient(
            api_endpoint=self.world.host.origin,
            api_key=self.world.host.api_key,
            trust_env=False,
            network=self.world.network,
            retry=RetryPolicy(max_retries=self.chance.choice((0, 3, 6))),
            limits=PoolLimits(max_connections=self.chance.choice((1, 3, 100))),
            exec_transport=self.chance.choice(("auto", "auto", "websocket", "sse")),
            **more,
        )
        client._random.seed(f"client {self.world.seed} {self.number} {self.closings}")
        return client

    async def live(self, steps: int) -> None:
        """Work, and go."""
        async with anyio.create_task_group() as workers:
            for number in range(self.chance.choice((1, 2, 3))):
                worker = Worker(self, number)
                workers.start_soon(worker.work, steps)
        self.check_pool()
        await self.client.aclose()
        self.check_closed(self.client)

    def check_pool(self) -> None:
        """Nobody is at work: every connection is idle, and nobody waits for one."""
        pool, check = self.client._pool, self.world.ledger.check
        states = [slot.state for slot in pool._plan._open]
        held = [state for state in states if state is not SlotState.IDLE]
        check("pool leases", not held, f"user {self.number}: nobody works, yet {held}")
        check("pool leases", not pool._granted, f"user {self.number}: tickets {pool._granted}")
        check(
            "pool leases",
            pool.open_connections == len(pool._connections),
            f"user {self.number}: {pool.open_connections} slots, {pool._connections}",
        )

    def check_closed(self, client: AsyncSandboxClient) -> None:
        """It is closed."""
        check = self.world.ledger.check
        check("nothing pending", not client._tracked, f"closed, and tracks {client._tracked}")
        left = client._pool.open_connections
        check("pool leases", not left, f"closed, and has {left} connections")

    async def replace_client(self) -> None:
        """Close the client under the hands of whoever uses it, and go on with a new one."""
        self.closings += 1
        old, self.client = self.client, self._new_client()
        await old.aclose()
        if not self.busy:
            self.check_closed(old)


class Worker:
    """One thing after the other, with one of the user's hands."""

    def __init__(self, user: User, number: int) -> None:
        self.user, self.world = user, user.world
        self.name = f"{user.number}.{number}"
        self.chance = random.Random(f"worker {self.world.seed} {self.name}")
        self.ledger = self.world.ledger
        self.owned: list[Owned] = []

    async def work(self, steps: int) -> None:
        deeds = {
            self.create: 2,
            self.run: 6,
            self.iterate: 4,
            self.feed: 3,
            self.kill: 2,
            self.leave_and_return: 3,
            self.write: 3,
            self.read: 4,
            self.tunnel: 3,
            self.list: 1,
            self.stop: 0.5,
            self.delete: 0.7,
            self.replace_client: 0.2,
            self.pause: 1,
        }
        for _ in range(steps):
            deed = self.chance.choices(list(deeds), list(deeds.values()))[0]
            if not self.owned and deed not in (self.list, self.pause, self.replace_client):
                deed = self.create
            self.ledger.deeds[deed.__name__] += 1
            await self.take_over()
            await deed()
        while self.owned:
            await self.delete()

    # --- how a call is watched --------------------------------------------------------

    async def call(
        self,
        what: str,
        limit: float,
        act: Callable[[], Awaitable[T]],
        *,
        may_cancel: bool = True,
    ) -> Outcome[T]:
        """Make a call, perhaps cancel it, and see that it ends in time, and how."""
        world, chance = self.world, self.chance
        began, closings = world.now, self.user.closings
        cancel_at: float | None = None
        if may_cancel and chance.random() < 0.12:
            cancel_at = began + chance.choice((0.0, 0.01, 0.3, 3.0, 30.0)) * chance.random()
        outcome: Outcome[T] = Outcome()
        self.user.busy += 1
        with anyio.CancelScope() as scope:
            alarm = None
            if cancel_at is not None:
                alarm = world.network.at(cancel_at, scope.cancel)
            try:
                outcome.value = await act()
            except (SandboxClientError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
                outcome.error = error
            except Exception as error:
                outcome.error = error
                self.ledger.check("errors", False, "".join(traceback.format_exception(error)))
            if alarm is not None:
                alarm.cancel()
        self.user.busy -= 1
        outcome.cancelled = scope.cancelled_caught
        took = world.now - began
        ended = "cancelled" if outcome.cancelled else repr(outcome.error or "done")
        world.tell(f"{self.name} {what}: {ended:.150} after {took:.3f} s")
        if outcome.cancelled:
            assert cancel_at is not None
            late = world.now - cancel_at
            self.ledger.check("deadline", late <= CANCEL_LIMIT, f"{what}: cancelled {late} s ago")
        outcome.closed = self.user.closings != closings
        self.ledger.check("deadline", took <= limit, f"{what} took {took} s, not {limit}")
        self._check_error(what, outcome)
        return outcome

    def _check_error(self, what: str, outcome: Outcome[Any]) -> None:
        error = outcome.error
        if error is None:
            return
        # No fault ever changes a byte, so whoever speaks of nonsense has made it up.
        is_nonsense = isinstance(error, SandboxProtocolError)
        self.ledger.check("errors", not is_nonsense, f"{what}: {error!r}")
        # What is slow may come too late, where little patience is asked for.
        is_late = self.world.weather == "breeze" and isinstance(error, SandboxTimeoutError)
        if not outcome.closed and self.world.harmless and not is_late:
            text = f"{what} failed although nothing was lost: {error!r}"
            self.ledger.check("no error in calm", False, text)

    # --- sandboxes --------------------------------------------------------------------

    async def create(self) -> None:
        token = self.world.token()
        made = self.world.made[token] = Made()
        client, before = self.user.client, self.world.struck
        wait = self.chance.random() < 0.8
        outcome = await self.call(
            f"create {token}",
            CREATE_LIMIT,
            lambda: client.create_sandbox(labels={"call": token}, wait_for_ready=wait),
        )
        made.excused = before != self.world.struck or outcome.closed
        if outcome.value is not None:
            made.outcome = "made"
            self.owned.append(Owned(outcome.value, token))
        else:
            made.outcome = "cancelled" if outcome.cancelled else f"{outcome.error!r}"

    def one(self) -> Owned:
        return self.chance.choice(self.owned)

    async def delete(self) -> None:
        owned = self.one()
        await self.take_over()
        client, id = self.user.client, owned.sandbox.id
        outcome = await self.call(
            f"delete {owned.call}", CONTROL_LIMIT, lambda: client.delete_sandbox(id)
        )
        made = self.world.made[owned.call]
        self.owned.remove(owned)
        if outcome.done:
            made.deleted = True
            self.ledger.check("no orphan", id not in self.world.host.host.boxes, f"{id} is there")

    async def list(self) -> None:
        client = self.user.client
        mine = {owned.sandbox.id for owned in self.owned}
        outcome = await self.call("list", CONTROL_LIMIT, client.list_sandboxes)
        if outcome.value is not None:
            found = {sandbox.id for sandbox in outcome.value}
            self.ledger.check("listing", mine <= found, f"{mine - found} are not listed")

    async def stop(self) -> None:
        owned = self.one()
        client, name = self.user.client, owned.sandbox.name
        box = self.world.host.host.boxes.get(owned.sandbox.id)
        if box is not None and box.status == "stopped":  # it was idle for too long
            await self.call(f"start {owned.call}", CREATE_LIMIT, owned.sandbox.start)
            return
        ready = await self.call(
            f"wait for {owned.call}", CREATE_LIMIT, lambda: client.wait_for_sandbox(name)
        )
        if not ready.done:
            return
        outcome = await self.call(f"stop {owned.call}", CONTROL_LIMIT, owned.sandbox.stop)
        if outcome.done:
            await self.call(f"start {owned.call}", CREATE_LIMIT, owned.sandbox.start)

    async def replace_client(self) -> None:
        await self.user.replace_client()

    async def take_over(self) -> None:
        """The client may be a new one: have the sandboxes from it."""
        for owned in self.owned:
            while owned.sandbox._client is not (client := self.user.client):
                id = owned.sandbox.id
                outcome = await self.call(
                    f"get {owned.call}",
                    CONTROL_LIMIT,
                    lambda client=client, id=id: client.get_sandbox(id),
                )
                if outcome.value is not None:
                    owned.sandbox = outcome.value

    async def pause(self, longest: float = 1000.0) -> None:
        seconds = self.chance.choice((0.1, 5.0, 100.0, longest)) * self.chance.random()
        await self.world.network.sleep_until(self.world.now + seconds)

    # --- commands ---------------------------------------------------------------------

    def draw_say(self) -> Say:
        chance = self.chance
        size = int(10 ** chance.uniform(0, 4.5))
        if chance.random() < 0.02:
            size = 3_000_000  # more than a host keeps
        pieces = chance.randint(1, 6)
        pause = chance.choice((0.0, 0.2, 1.5, 7.0, 30.0))
        return Say(self.world.token(), size, pieces, pause, chance.choice((0, 0, 0, 1, 77)))

    async def run(self) -> None:
        owned, command = self.one(), self.draw_say()
        timeout = self.chance.choice((60, 300, 0))
        heard: list[str] = []
        listen = {"on_stdout": heard.append} if self.chance.random() < 0.5 else {}
        limit = (timeout or command.duration) + RUN_MARGIN
        outcome = await self.call_command(command, timeout, limit, owned, listen)
        if outcome.value is not None:
            self.check_result(command, outcome.value)
            if listen:
                said = "".join(heard)
                holds = said == outcome.value.stdout
                self.ledger.check("output exact", holds, f"{command}: callbacks heard otherwise")

    async def call_command(
        self, command: Say, timeout: int, limit: float, owned: Owned, more: dict[str, Any]
    ) -> Outcome[Any]:
        if timeout and command.duration >= timeout:
            outcome = await self._run_too_long(command, timeout, limit, owned, more)
        else:
            outcome = await self.call(
                f"run {command}, timeout {timeout}",
                limit,
                lambda: owned.sandbox.run(str(command), timeout=timeout, **more),
            )
        if outcome.cancelled:
            running = [
                process.command.message.command for process in self.world.host._processes.values()
            ]
            self.ledger.check_unless(
                self.world.weather != "calm" or outcome.closed,
                "a cancelled run ends its command",
                str(command) not in running,
                f"{command} still runs",
            )
        if outcome.error is not None and (known := getattr(outcome.error, "command", None)):
            self.check_texts(command, known.stdout, known.stderr, known.missing, whole=False)
        return outcome

    async def _run_too_long(
        self, command: Say, timeout: int, limit: float, owned: Owned, more: dict[str, Any]
    ) -> Outcome[Any]:
        async def act() -> Any:
            try:
                return await owned.sandbox.run(str(command), timeout=timeout, **more)
            except CommandTimeoutError as error:
                return error

        outcome = await self.call(f"run {command}, timeout {timeout}", limit, act)
        if isinstance(outcome.value, CommandTimeoutError):
            outcome = attrs.evolve(outcome, value=None, error=outcome.value)
        elif outcome.value is not None and command.duration > timeout:
            self.ledger.check("limits", False, f"{command} had {timeout} s and was not stopped")
        return outcome

    def check_result(self, command: Say, result: Any) -> None:
        killed = result.exit_code == 137 and command.exit_code != 137
        self.ledger.check(
            "exit code",
            killed or result.exit_code == command.exit_code,
            f"{command}: {result.exit_code}",
        )
        if killed and self.world.harmless:
            self.ledger.check("exit code", False, f"{command} was killed, and nobody did it")
        gaps = (*result.missing, *result.omitted)
        self.check_texts(command, result.stdout, result.stderr, gaps, whole=not killed)

    def check_texts(
        self, command: Say, stdout: str, stderr: str, missing: Any, *, whole: bool
    ) -> None:
        for (name, data), text in zip(command.expected().items(), (stdout, stderr), strict=True):
            told, got = without(data, missing, name), text.encode()
            if not whole:  # its process may have died amid a character
                got = got.removesuffix("\ufffd".encode())
            holds = got == told if whole else told.startswith(got)
            gaps = [gap for gap in missing if gap.stream == name]
            self.ledger.check(
                "output exact or the gap told",
                holds,
                f"{command}: {len(got)} bytes of {name}, not the {len(told)} besides {gaps}",
            )
            self.ledger.excused["gap told"] += len(gaps)

    async def iterate(self) -> None:
        owned, command = self.one(), self.draw_say()
        positions = {"stdout": 0, "stderr": 0}

        async def act() -> Any:
            async with await owned.sandbox.run(str(command), wait=False, timeout=0) as handle:
                async for chunk in handle:
                    self.check_chunk(command, chunk, positions)
                    if self.chance.random() < 0.02:
                        await self.pause(longest=100.0)  # the host keeps output for 600 s
                return await handle.result

        outcome = await self.call(
            f"iterate {command}", command.duration + 100 * 100 + RUN_MARGIN, act
        )
        if outcome.value is not None:
            self.check_result(command, outcome.value)

    def check_chunk(self, command: Say, chunk: OutputChunk, positions: dict[str, int]) -> None:
        data = chunk.data.encode()
        holds = command.expected()[chunk.stream][chunk.offset : chunk.offset + len(data)] == data
        text = f"{command}: a chunk of {chunk.stream} at {chunk.offset} is not what stands there"
        self.ledger.check("output exact", holds, text)
        text = (
            f"{command}: {chunk.stream} goes back from {positions[chunk.stream]} to {chunk.offset}"
        )
        self.ledger.check("output exact", chunk.offset >= positions[chunk.stream], text)
        positions[chunk.stream] = chunk.offset + len(data)

    async def leave_and_return(self) -> None:
        """Begin to read, go away, and come back to the same place."""
        owned, command = self.one(), self.draw_say()
        positions = {"stdout": 0, "stderr": 0}
        pause = self.chance.choice((0.0, 1.0, 20.0, 200.0))

        async def act() -> Any:
            handle = await owned.sandbox.run(str(command), wait=False, timeout=0)
            for _ in range(self.chance.randint(0, 3)):
                try:
                    self.check_chunk(command, await handle.next_chunk(), positions)
                except StopAsyncIteration:
                    break
            handle.close()
            await self.world.network.sleep_until(self.world.now + pause)
            again = await owned.sandbox.reconnect(
                handle.command_id,
                stdout_offset=positions["stdout"],
                stderr_offset=positions["stderr"],
            )
            async with again:
                async for chunk in again:
                    self.check_chunk(command, chunk, positions)
                return await again.result

        limit = command.duration + pause + RUN_MARGIN
        outcome = await self.call(f"leave and return to {command}", limit, act)
        if outcome.value is not None:
            result = outcome.value
            killed = result.exit_code == 137
            for name, data in command.expected().items():
                gaps = [gap for gap in result.missing if gap.stream == name]
                end = max([positions[name], *(gap.end for gap in gaps)])
                self.ledger.check(
                    "output exact or the gap told",
                    killed or end == len(data),
                    f"{command}: {name} ended at {end}, not {len(data)}",
                )

    async def feed(self) -> None:
        """Give a command input, and hear it again."""
        owned, token = self.one(), self.world.token()
        if owned.sandbox._client.config.exec_transport == "sse":
            return  # which cannot
        lines = [
            text_of(f"{token}/{number}", self.chance.randint(1, 3000)).decode().replace("\n", "_")
            + "\n"
            for number in range(self.chance.randint(0, 5))
        ]
        doubtful = False

        async def act() -> Any:
            nonlocal doubtful
            async with await owned.sandbox.run(
                f"repeat {token}", wait=False, timeout=0, close_input=False
            ) as handle:
                try:
                    for line in lines:
                        await handle.send_input(line)
                        if self.chance.random() < 0.5:
                            await self.world.network.sleep_until(self.world.now + 1)
                    await handle.close_input()
                    return await handle.result
                finally:
                    doubtful = handle.input_in_doubt

        outcome = await self.call(f"feed {token}", RUN_MARGIN * 2, act)
        if outcome.value is not None and outcome.value.exit_code == 0:
            said, whole = outcome.value.stdout, "".join(lines)
            excused = doubtful or bool(outcome.value.missing)
            text = f"feed {token}: {len(said)} characters of {len(whole)} came back, doubtful: "
            self.ledger.check_unless(excused, "input exact", said == whole, text + str(doubtful))

    async def kill(self) -> None:
        owned, token = self.one(), self.world.token()

        async def act() -> Any:
            async with await owned.sandbox.run(f"hang {token}", wait=False, timeout=0) as handle:
                await self.pause_briefly()
                await handle.kill()
                return await handle.result

        outcome = await self.call(f"kill {token}", RUN_MARGIN, act)
        if outcome.value is not None:
            code = outcome.value.exit_code
            self.ledger.check("exit code", code == 137, f"killed {token}: {code}")

    async def pause_briefly(self) -> None:
        await self.world.network.sleep_until(self.world.now + 5 * self.chance.random())

    # --- files ------------------------------------------------------------------------

    async def write(self) -> None:
        owned, token = self.one(), self.world.token()
        path = f"/home/user/f{self.chance.randint(0, 2)}"
        content = text_of(token, int(10 ** self.chance.uniform(0, 5.5)))
        streamed = self.chance.random() < 0.3

        async def act() -> None:
            if not streamed:
                await owned.sandbox.write(path, content)
                return
            async with owned.sandbox.open_write(path) as file:
                for start in range(0, len(content), 50_000):
                    await file.write(content[start : start + 50_000])

        outcome = await self.call(f"write {path} {token} {len(content)}", FILE_LIMIT, act)
        before = owned.files.get(path, {None})
        owned.files[path] = {content} if outcome.done else before | {content}

    async def read(self) -> None:
        owned = self.one()
        path = f"/home/user/f{self.chance.randint(0, 2)}"
        possible = owned.files.get(path, {None})
        streamed = self.chance.random() < 0.3

        async def act() -> bytes | None:
            try:
                if not streamed:
                    return bytes(await owned.sandbox.read(path))
                async with owned.sandbox.open_read(path) as file:
                    return b"".join([chunk async for chunk in file])
            except SandboxClientError:
                if None in possible:
                    return None
                raise

        outcome = await self.call(f"read {path}", FILE_LIMIT, act)
        if outcome.done:
            holds = outcome.value in possible or None in possible
            self.ledger.check("files", holds, f"{path} of {owned.call} is not what was written")

    # --- tunnels ----------------------------------------------------------------------

    async def tunnel(self) -> None:
        owned, token = self.one(), self.world.token()
        data = text_of(token, int(10 ** self.chance.uniform(0, 5.5)))
        heard = bytearray()

        async def act() -> None:
            async with await owned.sandbox.connect(ECHO_PORT) as stream:
                async with anyio.create_task_group() as tasks:

                    async def send() -> None:
                        try:
                            await stream.send(data)
                            await stream.send_eof()
                        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                            pass  # whoever receives learns it, too

                    tasks.start_soon(send)
                    try:
                        async for chunk in stream:
                            heard.extend(chunk)
                    except anyio.BrokenResourceError as error:
                        tasks.cancel_scope.cancel()
                        broken.append(error)
                if broken:
                    raise broken[0]

        broken: list[Exception] = []
        outcome = await self.call(f"tunnel {token} {len(data)}", TUNNEL_LIMIT, act)
        text = f"tunnel {token}: {len(heard)} bytes of {len(data)} came back"
        holds = bytes(heard) == data if outcome.done else data.startswith(bytes(heard))
        self.ledger.check("tunnel exact", holds, text)
