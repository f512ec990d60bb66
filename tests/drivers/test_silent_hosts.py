"""Hosts that fall silent: every command ends in its typed error, by the deadline that is promised.

Before the command has started, that is the connect budget. Afterwards it is the command's own
limit, the grace after it, and the time a kill may take.
"""

from __future__ import annotations

import functools

import anyio
import attrs
import pytest

from sandbox_anyio import (
    AsyncCommandHandle,
    AsyncSandbox,
    AsyncSandboxClient,
    CommandTimeoutError,
    ExecTimeouts,
    SandboxClientError,
    SandboxConnectionError,
)
from sandbox_anyio.network import Network

from ._networks import TRANSPORTS, CountingNetwork, HastyNetwork
from ._silent_hosts import STARTED, SilentHost, Speech, output

TIMEOUTS = ExecTimeouts(
    open=1.0,
    ping_interval=0.3,
    pong=0.7,
    sse_read=1.0,
    connect_budget=2.5,
    grace=1.0,
    kill=1.0,
)
COMMAND_LIMIT = 1
START_PROMISE = 2.5  # the connect budget
END_PROMISE = 3.0  # the command's limit, the grace and the kill
MARGIN = 1.5  # for the machine the tests run on
TEXT = "grün € 😀\n"
ALL_OUTPUT = (STARTED, output("stdout", TEXT), output("stderr", "trouble\n"))
EXIT = {"type": "exit", "exit_code": 0}
NEVER_ACCEPTED = Speech(answers=False)


@attrs.frozen(kw_only=True)
class Case:
    """A host, and what a command there has to end in.

    :ivar speeches: what the host says, connection by connection.
    :ivar starts: the command is seen running.
    :ivar may_be_running: what the error has to say.
    :ivar heard: the output that the error has to tell.
    :ivar input: what the command is given to read.
    :ivar error: what it has to fail with, where that is not its time limit.
    """

    speeches: tuple[Speech, ...]
    starts: bool = True
    may_be_running: bool = True
    heard: tuple[str, str] = ("", "")
    input: str | None = None
    error: type[SandboxClientError] = CommandTimeoutError

    @property
    def promise(self) -> float:
        """By when it has to end."""
        return END_PROMISE if self.starts else START_PROMISE


ALL = (TEXT, "trouble\n")


def not_started(*, asked: bool = True, **speech: object) -> Case:
    """A case in which the command is not seen running.

    :param asked: the client could ask for it.
    """
    return Case(
        speeches=(Speech(**speech),),  # type: ignore[arg-type]
        starts=False,
        may_be_running=asked,
        error=SandboxConnectionError,
    )


def started(*speeches: Speech, heard: tuple[str, str] = ("", ""), **more: object) -> Case:
    """A case in which it is."""
    return Case(speeches=speeches, heard=heard, **more)  # type: ignore[arg-type]


CASES = {
    "accepts TCP only": not_started(asked=False, answers=False),
    "half an answer to the request": not_started(asked=False, begins_answer=True),
    "drips the answer to the request": not_started(asked=False, begins_answer=True, drips=True),
    "after the upgrade": not_started(),
    "after the upgrade, alive": not_started(alive=True),
    "half of started": not_started(begins=STARTED),
    "drips started": not_started(begins=STARTED, drips=True),
    "after started": started(Speech(says=(STARTED,))),
    "after started, alive": started(Speech(says=(STARTED,), alive=True)),
    "after started, then accepts TCP only": started(Speech(says=(STARTED,)), NEVER_ACCEPTED),
    "after started, then only upgrades": started(Speech(says=(STARTED,)), Speech()),
    "after output": started(Speech(says=ALL_OUTPUT[:2]), heard=(TEXT, "")),
    "after output, alive": started(Speech(says=ALL_OUTPUT[:2], alive=True), heard=(TEXT, "")),
    "half a frame of output": started(
        Speech(says=ALL_OUTPUT[:2], begins=ALL_OUTPUT[2]), heard=(TEXT, "")
    ),
    "drips a frame of output": started(
        Speech(says=ALL_OUTPUT[:2], begins=ALL_OUTPUT[2], drips=True), heard=(TEXT, "")
    ),
    "before exit": started(Speech(says=ALL_OUTPUT), heard=ALL),
    "before exit, alive": started(Speech(says=ALL_OUTPUT, alive=True), heard=ALL),
    "before exit, then accepts TCP only": started(
        Speech(says=ALL_OUTPUT), NEVER_ACCEPTED, heard=ALL
    ),
    "half of exit": started(Speech(says=ALL_OUTPUT, begins=EXIT), heard=ALL),
    "drips exit": started(Speech(says=ALL_OUTPUT, begins=EXIT, drips=True), heard=ALL),
    "before exit, obeys the kill": started(
        Speech(says=ALL_OUTPUT, alive=True, obeys=True), heard=ALL, may_be_running=False
    ),
    # What became of input that was on its way nobody can know, so that is the error.
    "reads no input": started(
        Speech(says=(STARTED,), reads=False), input="x" * 8_000_000, error=SandboxConnectionError
    ),
}


@attrs.frozen
class Ending:
    """How a command ended.

    :ivar took: seconds.
    :ivar heard: what callbacks, or whoever iterated, got.
    :ivar connections: how many connections were made.
    :ivar left_open: how many of them are still there.
    """

    error: BaseException | None
    took: float
    heard: tuple[str, str]
    connections: int
    left_open: int


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@functools.cache
def endings(backend: str) -> dict[tuple[str, str, str], Ending]:
    """Every case, on each transport and in both forms, nearly all at once: they mostly wait."""
    found: dict[tuple[str, str, str], Ending] = {}

    async def play(transport: str, name: str, form: str) -> None:
        found[transport, name, form] = await end_of(CASES[name], form, transport)

    async def play_all() -> None:
        # Megabytes of input take the processor, so those cases come by themselves.
        for with_input in (False, True):
            async with anyio.create_task_group() as tasks:
                for name, case in CASES.items():
                    if (case.input is not None) == with_input:
                        for transport in ["websocket"] if with_input else TRANSPORTS:
                            tasks.start_soon(play, transport, name, "waiting")
                            tasks.start_soon(play, transport, name, "handle")

    anyio.run(play_all, backend=backend)
    print(f"\n{backend}:")
    for (transport, name, form), ending in sorted(found.items()):
        print(
            f"  {transport:9} {name:36} {form:8} {ending.took:5.2f} s "
            f"of {CASES[name].promise:.1f} s, {ending.connections} connections, "
            f"{type(ending.error).__name__}: {ending.error}"
        )
    return found


def client_of(
    host: SilentHost, transport: str, network: Network, timeouts: ExecTimeouts
) -> AsyncSandboxClient:
    return AsyncSandboxClient(
        api_endpoint=host.url,
        api_key="k",
        trust_env=False,
        exec_timeouts=timeouts,
        exec_transport=transport,  # type: ignore[arg-type]
        network=network,
    )


async def end_of(case: Case, form: str, transport: str) -> Ending:
    network = CountingNetwork()
    heard: dict[str, list[str]] = {"stdout": [], "stderr": []}
    error: BaseException | None = None
    with SilentHost(*case.speeches) as host:
        async with client_of(host, transport, network, TIMEOUTS) as client:
            sandbox = AsyncSandbox(name="box", dataplane_url=host.url, client=client)
            began = anyio.current_time()
            try:
                with anyio.fail_after(20):
                    if form == "waiting":
                        await sandbox.run(
                            "work",
                            timeout=COMMAND_LIMIT,
                            on_stdout=heard["stdout"].append,
                            on_stderr=heard["stderr"].append,
                            input=case.input,
                        )
                    else:
                        handle = await sandbox.run(
                            "work", timeout=COMMAND_LIMIT, wait=False, input=case.input
                        )
                        await read(handle, heard)
            except (SandboxClientError, TimeoutError) as raised:
                error = raised
            took = anyio.current_time() - began
            left_open = network.open_streams
    told = "".join(heard["stdout"]), "".join(heard["stderr"])
    return Ending(error, took, told, host.server.connections, left_open)


async def read(handle: AsyncCommandHandle, heard: dict[str, list[str]]) -> None:
    async for chunk in handle:
        heard[chunk.stream].append(chunk.data)


@pytest.mark.parametrize("form", ["waiting", "handle"])
@pytest.mark.parametrize("name", CASES)
def test_a_silent_host_holds_nobody_longer_than_promised(
    anyio_backend: str, transport: str, name: str, form: str
) -> None:
    case = CASES[name]
    if transport != "websocket" and case.input is not None:
        pytest.skip("only a WebSocket carries input")
    ending = endings(anyio_backend)[transport, name, form]
    error = ending.error
    assert isinstance(error, SandboxClientError), f"it hung: {error!r}"
    assert isinstance(error, case.error)
    assert ending.took < case.promise + MARGIN
    assert error.command is not None, "the error does not say what is known of the command"
    asked_at_once = not case.starts and transport != "websocket"  # the request says it all
    assert error.command.may_be_running == (case.may_be_running or asked_at_once)
    assert error.command.command_id
    assert (error.command.stdout, error.command.stderr) == case.heard
    assert error.command.missing == ()
    assert ending.heard == case.heard
    assert ending.left_open == 0


@pytest.mark.parametrize("name", [name for name in CASES if "alive" in name])
def test_nor_is_a_host_that_is_alive_given_up_before(
    anyio_backend: str, transport: str, name: str
) -> None:
    least = CASES[name].promise - TIMEOUTS.kill
    assert least <= endings(anyio_backend)[transport, name, "waiting"].took


@pytest.mark.anyio
async def test_a_command_without_a_limit_is_given_up_when_its_host_is_gone(
    anyio_backend: str,
) -> None:
    """Five more attachments are tried, with backoffs; then it is over, and its output is told."""
    async with anyio.create_task_group() as tasks:
        for transport in TRANSPORTS:
            tasks.start_soon(check_giving_up, transport)


async def check_giving_up(transport: str) -> None:
    """The clock runs ten times as fast; the first connection must open on a busy machine, too."""
    patience = ExecTimeouts(open=8.0, ping_interval=1.0, pong=2.0, sse_read=8.0, kill=2.0)
    backoffs = 0.5 + 1 + 2 + 4 + 8
    promise = 8.0 + backoffs + 5 * 8.0
    network = HastyNetwork(10.0)
    with SilentHost(Speech(says=ALL_OUTPUT), NEVER_ACCEPTED) as host:
        async with client_of(host, transport, network, patience) as client:
            sandbox = AsyncSandbox(name="box", dataplane_url=host.url, client=client)
            began = network.now()
            with anyio.fail_after(20), pytest.raises(SandboxConnectionError) as caught:
                await sandbox.run("work", timeout=0)
            took = network.now() - began
    print(f"\n{transport}, no limit: {took:.1f} s of {promise:.1f} s, {caught.value}")
    assert took < promise + 10 * MARGIN
    assert host.server.connections == 6
    assert caught.value.command is not None
    assert caught.value.command.may_be_running
    assert (caught.value.command.stdout, caught.value.command.stderr) == ALL
