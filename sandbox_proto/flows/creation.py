"""Creating a sandbox: never twice, never left behind (design section 6).

``POST /boxes`` has no idempotency key, so the name is the key: who gives none gets
one chosen here. When the answer to a create is lost, or a gateway answers in the
server's stead, the sandbox may or may not exist; asking for it by name tells. It is
ours if we invented the name, or if it is younger than our first attempt by the
server's own clock (its ``created_at`` beside the answer's ``Date``).
"""

from __future__ import annotations

from ..errors import (
    ResourceNotFoundError,
    ResourceTimeoutError,
    SandboxClientError,
    SandboxConnectionError,
    SandboxProtocolError,
)
from ..faults import Fault, Phase
from ..plans.retry import Repeatability, outcome_is_unknown
from ..plans.timeouts import Timeouts
from ..wire.creation import CreationSpec
from ..wire.error_bodies import creation_error
from ..wire.http import Response
from ..wire.ids import sandbox_name
from ..wire.models import SandboxRecord
from ..wire.times import CLOCK_TOLERANCE, server_age
from .control import HeaderLayer, box_path, call_control, control_request
from .effects import (
    Answered,
    Attempts,
    Flow,
    FlowContext,
    Perform,
    Performed,
    exchange,
    wait_until,
)
from .sandboxes import delete_sandbox, wait_for_sandbox

HELD_REQUEST_MARGIN = 30.0
POLL_INTERVAL = 1.0
_UNDO_FIRST_WAIT = 0.1
_UNDO_PATIENCE = 5.0


class Creation:
    """One creation: the flow that makes the sandbox, and the flow that undoes it.

    :ivar name: the sandbox's name, the user's or one chosen here.
    """

    def __init__(
        self,
        context: FlowContext,
        spec: CreationSpec,
        *,
        timeout: float,
        wait_for_ready: bool,
        headers: HeaderLayer = None,
    ) -> None:
        """
        :param timeout: how long the server may take to make it ready, in seconds.
        :raises ValueError: a setting is out of range or contradicts another.
        """
        self._context = context
        self._began = context.now
        self._headers = headers
        self._name_is_ours = not spec.name
        self.name = spec.name or sandbox_name(context.entropy)
        body = spec.payload(self.name)
        box_path(self.name)  # refuses names that could not be addressed afterwards
        body["wait_for_ready"] = wait_for_ready
        patience = HELD_REQUEST_MARGIN
        if wait_for_ready:
            body["timeout"] = timeout
            patience += timeout
        self._timeout = timeout
        self._wait_for_ready = wait_for_ready
        self._request = control_request(context, "POST", "/boxes", json=body, headers=headers)
        self._timeouts = Timeouts.uniform(patience)
        self._asked = False
        self._may_exist = False

    def run(self) -> Flow[SandboxRecord]:
        """Make the sandbox.

        :raises ResourceTimeoutError: not ready in time.
        :raises ResourceCreationError: it could not be made.
        :raises SandboxClientError: any other refusal or trouble.
        """
        attempts = Attempts(self._context)
        while True:
            self._asked = True
            outcome = yield from exchange(Perform(self._request, self._timeouts))
            result = outcome.result
            when = attempts.next_after(outcome, Repeatability.KEYED)
            if isinstance(outcome, Answered) and outcome.response.successful:
                record = yield from self._read(attempts.performed(self._request, outcome))
                return record
            if outcome_is_unknown(result) or self._met_itself(result):
                self._may_exist = True
                found = yield from self._find()
                if found is not None:
                    record = yield from self._adopt(found)
                    return record
            if when is None:
                break
            yield from wait_until(when)
        try:
            done = attempts.performed(self._request, outcome)
            error = done.blame(creation_error(self._request, done.response))
        except SandboxClientError as trouble:
            error = trouble
        if isinstance(error, ResourceTimeoutError) or self._may_exist:
            # The server keeps a named sandbox after a timeout, and this name is known to nobody.
            yield from self._discard_if_name_is_ours()
        raise error

    def undo(self, context: FlowContext, phase: Phase) -> Flow[None] | None:
        """What removes the sandbox of a creation that was cancelled; None if there can be none.

        :param context: a fresh one.
        :param phase: how far the request in flight had got.
        """
        if not self._asked or (phase is Phase.NOTHING_SENT and not self._may_exist):
            return None
        self._context = context
        return self._undo()

    def _undo(self) -> Flow[None]:
        # The server may still be busy with our request, so one "not found" proves nothing.
        now, wait = self._context.now, _UNDO_FIRST_WAIT
        give_up = now + _UNDO_PATIENCE
        while True:
            found = yield from self._find()
            if found is not None:
                yield from self._delete(found.id or self.name)
                return
            if now >= give_up:
                return
            now = yield from wait_until(now + wait)
            wait *= 2

    # --- reading answers --------------------------------------------------------------

    def _read(self, done: Performed) -> Flow[SandboxRecord]:
        try:
            return done.read(SandboxRecord.parse)
        except SandboxProtocolError:
            yield from self._discard_if_name_is_ours()
            raise

    def _met_itself(self, result: Response | Fault) -> bool:
        """The name is taken, and it may have been taken by an earlier attempt of ours."""
        return self._may_exist and isinstance(result, Response) and result.status == 409

    def _find(self) -> Flow[SandboxRecord | None]:
        """The sandbox of this creation, if the server has it."""
        request = control_request(self._context, "GET", box_path(self.name), headers=self._headers)
        try:
            done = yield from call_control(self._context, request, Repeatability.SAFE)
            if not done.response.successful:
                return None
            record = done.read(SandboxRecord.parse)
        except SandboxConnectionError:
            return None  # the caller reports the trouble with the creation itself
        return record if self._is_ours(record, done.response, done.now) else None

    def _is_ours(self, record: SandboxRecord, response: Response, now: float) -> bool:
        if self._name_is_ours:
            return True
        age = server_age(record.created_at, response.header("date"))
        return age is not None and age <= now - self._began + CLOCK_TOLERANCE

    def _adopt(self, record: SandboxRecord) -> Flow[SandboxRecord]:
        """Go on with a sandbox whose creation was never answered."""
        if not self._wait_for_ready or record.status == "ready":
            return record
        try:
            ready = yield from wait_for_sandbox(
                self._context,
                self.name,
                timeout=self._timeout,
                poll_interval=POLL_INTERVAL,
                headers=self._headers,
            )
        except SandboxClientError:
            yield from self._discard_if_name_is_ours()
            raise
        return ready

    def _discard_if_name_is_ours(self) -> Flow[None]:
        if self._name_is_ours:
            try:
                yield from self._delete(self.name)
            except SandboxClientError:
                pass  # the trouble with the creation is what counts

    def _delete(self, name: str) -> Flow[None]:
        try:
            yield from delete_sandbox(self._context, name, self._headers)
        except ResourceNotFoundError:
            pass  # that is what was wanted
