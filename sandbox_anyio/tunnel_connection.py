"""A tunnel's session with its streams: the driver of a `TunnelSession`.

There are no tasks here. Whoever waits for a stream drives the session for all, and hands
it over when he has what he waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import attrs

from sandbox_proto.errors import (
    SandboxClientError,
    SandboxConnectionError,
    SandboxTimeoutError,
    TunnelConnectionRefusedError,
    TunnelError,
)
from sandbox_proto.machines.tunnel_session import (
    SessionEnded,
    SessionLeaving,
    SessionOpened,
    TunnelEvent,
    TunnelLimits,
    TunnelSession,
)
from sandbox_proto.machines.upgrade import KEY_BYTES
from sandbox_proto.plans.reconnect import ReconnectPlan
from sandbox_proto.wire.urls import Url

from .masking import consider_numpy
from .network import ConnectFailed, Event
from .pump import Pump
from .tunnel_streams import TunnelStream

if TYPE_CHECKING:
    from .base import ClientBase

# How soon a port that does not answer is tried again, in seconds; it doubles.
_FIRST_PAUSE, _MAX_PAUSE = 0.05, 1.0
# After so many seconds without a driver, silence is ours and not the server's.
_ABSENCE = 1.0


@attrs.frozen(eq=False)
class _Waiter:
    done: Callable[[], bool]
    woken: Event


class TunnelConnection:
    """One session with its streams.

    :ivar ended: how it ended, if it has.
    """

    def __init__(self, client: ClientBase, session: TunnelSession, pump: Pump[TunnelEvent]) -> None:
        self._client, self._session, self._pump = client, session, pump
        self._streams: dict[int, TunnelStream] = {}
        self._waiters: list[_Waiter] = []
        self._driving = False
        self._attended = client.network.now()  # when somebody drove last
        self._opened = self._retired = False
        self._sent = 0
        self._mutex = client.network.mutex()
        self.ended: SessionEnded | None = None
        client.track(self)

    @classmethod
    async def attempt(
        cls, client: ClientBase, base: str, headers: Mapping[str, str], limits: TunnelLimits
    ) -> TunnelConnection | SessionEnded:
        """Try once to open a session. Trouble is an outcome."""
        network = client.network
        until = None if limits.open is None else network.now() + limits.open
        try:
            stream = await client.connect(Url.parse(base).origin, until=until)
        except ConnectFailed as failure:
            return SessionEnded.unreachable(failure.fault)
        nonce = network.entropy(KEY_BYTES)
        session = client.make(TunnelSession, base, headers, limits, nonce=nonce, now=network.now())
        session.connected(now=network.now())
        connection = cls(client, session, Pump(session, stream, network, network.mutex()))
        try:
            await connection.drive_until(lambda: connection._opened)
        except BaseException:
            connection.close()
            raise
        return connection if connection.ended is None else connection.ended

    @property
    def usable(self) -> bool:
        """Whether `connect` may be called."""
        return self.ended is None and self._session.can_open

    @property
    def flushed(self) -> bool:
        """Whether the transport has taken everything."""
        return self._session.flushed

    async def connect(self, port: int, *, until: float | None = None) -> TunnelStream:
        """A stream to a port in the sandbox.

        :param until: when to give up.
        :raises TunnelConnectionRefusedError: nothing listens there.
        :raises TunnelPortNotAllowedError: the server does not allow it.
        :raises TunnelError: the server refuses for another reason.
        :raises SandboxConnectionError: the session ended, or the server did not answer in time.
        """
        with self._mutex:
            if not self.usable:
                raise self._unusable()
            id = self._session.open(port, now=self.now())
            stream = self._streams[id] = TunnelStream(self, id, port)
            self._nudge()
        try:
            await self.drive_until(
                lambda: stream.connected or stream.failure is not None, until=until
            )
            if stream.failure is not None:
                raise stream.failure
            if not stream.connected:
                text = f"port {port} did not answer in time"
                raise SandboxTimeoutError(text, limit="operation")
        except BaseException:
            self.drop(id, reset=True)
            raise
        return stream

    def _unusable(self) -> SandboxClientError:
        if self.ended is not None:
            return self.ended.error
        return TunnelError("the server takes no new connections in this session")

    def close(self) -> None:
        """End the session and every stream in it. Waits for nothing. Idempotent."""
        with self._mutex:
            self._session.close(now=self.now())
            self._take_events()
            self._wake()

    def now(self) -> float:
        """The clock of the network."""
        return self._client.network.now()

    # --- for its streams --------------------------------------------------------------

    def unsent(self, id: int) -> int:
        """How many bytes of a stream wait here."""
        return self._session.unsent(id)

    def send(self, id: int, data: memoryview) -> int:
        """Send on a stream. Returns how many bytes were taken."""
        with self._mutex:
            count = self._session.send(id, data, now=self.now())
            self._sent += count
            consider_numpy(self._sent)
            self._nudge()
        return count

    def send_eof(self, id: int) -> None:
        """End our direction of a stream."""
        with self._mutex:
            self._session.send_eof(id, now=self.now())
            self._nudge()

    def consumed(self, id: int, count: int) -> None:
        """The application has taken so many bytes."""
        with self._mutex:
            self._session.consumed(id, count, now=self.now())
            self._nudge()

    def delivered(self, id: int, count: int) -> None:
        """The same while events are taken: what becomes of it is sent afterwards."""
        self._session.consumed(id, count, now=self.now())

    def close_stream(self, id: int) -> None:
        """Done with a stream: what was sent is still delivered."""
        with self._mutex:
            self._session.close_stream(id, now=self.now())
            self._nudge()

    def drop(self, id: int, *, reset: bool) -> None:
        """Forget a stream.

        :param reset: end it at once, in both directions; else it was closed.
        """
        with self._mutex:
            self._streams.pop(id, None)
            if reset:
                self._session.reset(id, now=self.now())
                self._nudge()
            self._wake()
        if self._retired and not self._streams:
            self.close()

    def retire(self) -> None:
        """No new streams will be asked for: it ends with the last one."""
        self._retired = True
        if not self._streams:
            self.close()

    async def confirm(self, until: float) -> None:
        """Wait until the server has what was sent, or until a moment."""
        with self._mutex:
            mark = self._session.mark(now=self.now())
            self._nudge()
        await self.drive_until(lambda: self._session.passed(mark), until=until)

    async def let_others_run(self) -> None:
        """A moment for other tasks."""
        await self._client.network.sleep_until(self.now())

    # --- driving ----------------------------------------------------------------------

    async def drive_until(self, done: Callable[[], bool], *, until: float | None = None) -> None:
        """Drive the session until `done` or its end, or wait while another task drives it.

        :param until: when to give up.
        """
        while not self._is_enough(done, until):
            if self._driving:
                await self._follow(done, until)
            else:
                await self._lead(done, until)

    def _is_enough(self, done: Callable[[], bool], until: float | None) -> bool:
        late = until is not None and self.now() >= until
        return late or self.ended is not None or done()

    async def _lead(self, done: Callable[[], bool], until: float | None) -> None:
        self._driving = True
        if self.now() - self._attended > _ABSENCE:
            self._session.resume(now=self.now())
        try:
            while not self._is_enough(done, until):
                await self._pump.step(until)
                with self._mutex:
                    self._take_events()
                    self._nudge()
        finally:
            self._driving, self._attended = False, self.now()
            if self._waiters:
                self._waiters[0].woken.set()  # somebody has to lead

    async def _follow(self, done: Callable[[], bool], until: float | None) -> None:
        waiter = _Waiter(done, self._client.network.event())
        self._waiters.append(waiter)
        try:
            await waiter.woken.wait(until)
        finally:
            self._waiters.remove(waiter)
            if not self._driving and self._waiters:
                self._waiters[0].woken.set()  # the call to lead may have been for us

    def _take_events(self) -> None:
        while (event := self._session.next_event()) is not None:
            match event:
                case SessionOpened():
                    self._opened = True
                case SessionLeaving():
                    pass  # `usable` says it
                case SessionEnded():
                    self._end(event)
                case _:
                    if (stream := self._streams.get(event.stream)) is not None:
                        stream._take(event)

    def _end(self, event: SessionEnded) -> None:
        self.ended = event
        self._pump.close()
        self._client.untrack(self)
        for stream in self._streams.values():
            stream._take(event)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if self.ended is not None or waiter.done():
                waiter.woken.set()

    def _nudge(self) -> None:
        """Something changed: send what there is, and wake who waited for that.

        What cannot be sent yet is for the driver, who may be waiting for something else.
        """
        if self.ended is None:
            while self._pump.send_now() and self._session.has_more:
                pass
            if self._driving and not self._session.flushed:
                self._pump.stream.interrupt()
        self._wake()


async def open_tunnel_connection(
    client: ClientBase,
    base: str,
    headers: Mapping[str, str],
    *,
    retries: int,
    limits: TunnelLimits | None = None,
    until: float | None = None,
) -> TunnelConnection:
    """Open a session, and try again as `ReconnectPlan` says.

    :param base: the data plane's base URL.
    :param retries: how many attempts may follow the first.
    :param until: no attempt begins later.
    :raises SandboxConnectionError: none succeeded; this is the last one's error.
    """
    context = client.flow_context()
    plan = ReconnectPlan(retries, context.random)
    limits = limits or TunnelLimits(open=client.config.exec_timeouts.open)
    while True:
        outcome = await TunnelConnection.attempt(client, base, headers, limits)
        if isinstance(outcome, TunnelConnection):
            return outcome
        delay = plan.next_delay(final=outcome.final, retry_after=outcome.retry_after)
        if delay is None:
            raise outcome.error
        when = client.network.now() + delay
        if until is not None and when >= until:
            raise outcome.error
        await client.network.sleep_until(when)


async def wait_for_port(
    client: ClientBase,
    base: str,
    headers: Mapping[str, str],
    port: int,
    timeout: float,
    *,
    retries: int,
) -> None:
    """Wait until something listens on a port; see `AsyncSandbox.wait_for_port`."""
    now = client.network.now
    until, pause = now() + timeout, _FIRST_PAUSE
    connection: TunnelConnection | None = None
    try:
        while now() < until:
            if connection is None or not connection.usable:
                limits = TunnelLimits(open=until - now())
                connection = await open_tunnel_connection(
                    client, base, headers, retries=retries, limits=limits, until=until
                )
            try:
                stream = await connection.connect(port, until=until)
            except TunnelConnectionRefusedError:
                await client.network.sleep_until(min(now() + pause, until))
                pause = min(2 * pause, _MAX_PAUSE)
            except SandboxConnectionError:
                if connection.usable and now() < until:
                    raise
            else:
                await stream.aclose()
                return
    finally:
        if connection is not None:
            connection.close()
    text = f"nothing listened on port {port} within {timeout:g} s"
    raise SandboxTimeoutError(text, limit="operation", seconds=timeout)
