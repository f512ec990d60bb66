"""Driving one flow to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from sandbox_proto.errors import SandboxProtocolError
from sandbox_proto.flows.effects import Effect, Flow, Outcome, Perform, WaitUntil, Woke
from sandbox_proto.wire.urls import Origin

from .http import HttpPool, Progress

if TYPE_CHECKING:
    from sandbox_proto.trace.recorder import Recorder

T = TypeVar("T")


class FlowRun(Generic[T]):
    """One run of one flow.

    :ivar progress: how far the request in flight has got; after a cancellation, how far it had.
    """

    def __init__(self, pool: HttpPool, recorder: Recorder | None = None) -> None:
        self._pool = pool
        self._recorder = recorder
        self.progress = Progress()
        self._origin: Origin | None = None

    async def drive(self, flow: Flow[T]) -> T:
        """Answer the flow's questions until it returns.

        The flow raises its own errors; cancellation never enters it, it is just closed.
        """
        if self._recorder is not None:
            flow = self._recorder.flow(flow, self._pool.network.now)
        outcome: Outcome | None = None
        try:
            while True:
                try:
                    effect = flow.send(outcome)
                except StopIteration as stop:
                    result: T = stop.value
                    return result
                outcome = await self._answer(effect)
        except SandboxProtocolError:
            # Whoever answers nonsense on one connection is not trusted on its others either.
            self._pool.distrust(self._origin)
            raise
        finally:
            flow.close()

    async def _answer(self, effect: Effect) -> Outcome:
        match effect:
            case Perform(request):
                self._origin = request.url.origin
                return await self._pool.perform(effect, self.progress)
            case WaitUntil(when):
                await self._pool.network.sleep_until(when)
                return Woke(self._pool.network.now())
