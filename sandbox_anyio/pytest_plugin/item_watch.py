"""What one test makes, and what of it is still there when the test is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from sandbox_proto.host.commands import CommandState

from .request_log import RequestLog

if TYPE_CHECKING:
    from sandbox_proto.testing import ModelHost

    from ..base import ClientBase, Closable
    from .hosts import AnyHost
    from .traces import ItemTrace
    from .watched_network import WatchedNetwork

ALLOWING = "@pytest.mark.sandbox_leaks_allowed"


@attrs.frozen(eq=False)
class MadeClient:
    """A client, and where it was made."""

    client: ClientBase
    network: WatchedNetwork
    place: str


@attrs.define(eq=False)
class MadeSandbox:
    """A sandbox that may be there, all its names and its id, and where it was asked for."""

    names: set[str]
    place: str


@attrs.frozen
class Leak:
    """Something that outlived its test.

    :ivar advice: what to do about it.
    """

    what: str
    place: str
    advice: str

    def __str__(self) -> str:
        made = f"\n      made at {self.place}" if self.place else ""
        return f"  * {self.what}{made}\n      {self.advice}"


class ItemWatch:
    """One test.

    :param trace: the trace that it records or replays, if any.
    :ivar in_call: whether the test's function is being run.
    :ivar failed: something failed, so what follows is no news.
    :ivar differs: the first thing that it did and its trace does not hold.
    :ivar blocked: why its clients may not open connections.
    :ivar handed_out: the fixtures' own clients, which they close.
    :ivar host: the real host that it speaks to, if any.
    """

    def __init__(self, trace: ItemTrace | None) -> None:
        self.trace = trace
        self.in_call = self.failed = False
        self.differs: str | None = None
        self.blocked = ""
        self.host: AnyHost | None = None
        self.requests = RequestLog()
        self.clients: list[MadeClient] = []
        self.things: dict[Closable, tuple[ClientBase, str]] = {}
        self.sandboxes: list[MadeSandbox] = []
        self.handed_out: set[ClientBase] = set()
        self.model_hosts: list[ModelHost] = []
        self.leaks: list[Leak] = []

    # --- sandboxes --------------------------------------------------------------------

    def add_sandbox(self, name: str, place: str) -> None:
        """One was asked for."""
        self.sandboxes.append(MadeSandbox({name}, place))

    def sandbox(self, name: str) -> MadeSandbox | None:
        """What this test made of that name or id."""
        return next((made for made in self.sandboxes if name in made.names), None)

    def not_made_here(self, there: dict[str, str]) -> list[str]:
        """The ids of those that this test has not made.

        :param there: id -> name.
        """
        return [id for id, name in there.items() if not (self.sandbox(id) or self.sandbox(name))]

    # --- what is left -----------------------------------------------------------------

    def look_at(self, client: ClientBase) -> None:
        """Note what lives on a client that a fixture is going to close."""
        tracked = client.tracked
        left = [thing for thing in tracked if thing in self.things]
        inner = {id(part) for thing in left for part in getattr(thing, "_connections", ())}
        for thing in left:
            if id(thing) not in inner:  # a tunnel's session is no news beside the tunnel
                self.leaks.append(_leak_of(thing, self.things.pop(thing)[1]))
        network = next((made.network for made in self.clients if made.client is client), None)
        for stream in client.busy_streams:
            inner_stream: Any = getattr(stream, "_stream", None)  # beneath a recorder
            places = {} if network is None else network.streams
            place = places.get(stream, places.get(inner_stream, ""))  # type: ignore[call-overload]
            self.leaks.append(
                Leak("an answer that nobody read to its end", place, "close it, or leave its block")
            )

    def look_at_own_clients(self) -> list[ClientBase]:
        """Note the clients that the test made and did not close; they are returned."""
        left = []
        for made in self.clients:
            client = made.client
            count = len(made.network.streams)
            used = count or any(client is owner for owner, _ in self.things.values())
            if client in self.handed_out or not used or client.closed:
                continue
            left.append(client)
            self.look_at(client)
            many = f"{count} connection{'' if count == 1 else 's'} open"
            advice = "use it as a context manager, or call aclose() (close() where it blocks)"
            self.leaks.append(Leak(f"{client!r} was never closed: {many}", made.place, advice))
        for thing, (client, place) in self.things.items():
            if thing in client.tracked and client not in left:  # on a client of wider scope
                self.leaks.append(_leak_of(thing, place))
        return left

    def look_at_sandboxes(
        self, there: dict[str, str] | None, host: str, *, known: set[str], cleans_up: bool = False
    ) -> None:
        """Note the sandboxes that are left.

        :param there: id -> name of what there is; None: nobody can be asked.
        :param known: ids of those that are not this test's.
        :param cleans_up: they are going to be deleted.
        """
        advice = "delete it, or make it with `client.sandbox()` and its block"
        if there is None:
            for made in self.sandboxes:
                name = min(made.names, key=len)
                self.leaks.append(Leak(f"sandbox {name!r} was not deleted", made.place, advice))
            return
        if cleans_up:
            advice += "; by now it is deleted"
        for box_id, name in there.items():
            if box_id in known:
                continue
            made_here = self.sandbox(box_id) or self.sandbox(name)
            place = "" if made_here is None else made_here.place
            origin = "" if made_here is not None else ", made by no client of this process"
            self.leaks.append(Leak(f"sandbox {name!r} is still on {host}{origin}", place, advice))

    def look_at_model(self, host: ModelHost) -> None:
        """Note what is left on a model host."""
        there = {box_id: box.name for box_id, box in host.host.boxes.items()}
        for box_id, name in there.items():
            for command in host.commands.of_box(box_id):
                if command.state is not CommandState.OVER:
                    text = f"command {command.message.command!r} still runs in sandbox {name!r}"
                    self.leaks.append(Leak(text, "", "await its end, or kill it"))
        self.look_at_sandboxes(there, "model_host", known=set())

    def complaint(self) -> str:
        """What to say of the leaks."""
        count = len(self.leaks)
        things = (
            "thing of this test outlives it" if count == 1 else "things of this test outlive it"
        )
        listed = "\n".join(map(str, self.leaks))
        return f"{count} {things}:\n{listed}\nIf that is meant, mark the test with {ALLOWING}."


def _leak_of(thing: Closable, place: str) -> Leak:
    match type(thing).__name__:
        case "AsyncCommandHandle":
            opening = getattr(getattr(thing, "_session", None), "_opening", None)
            text = getattr(opening, "command", None) or getattr(opening, "command_id", "")
            return Leak(
                f"the handle on command {text!r} is still open",
                place,
                "await its result, kill it, or use the handle as a context manager",
            )
        case "AsyncTunnel":
            return Leak(f"{thing!r} is still open", place, "leave its block, or close it")
        case "TunnelConnection":
            return Leak("a stream into a sandbox is still open", place, "call its aclose()")
        case "AsyncWebSocket":
            return Leak("a WebSocket is still open", place, "leave its block, or close it")
        case name:
            return Leak(f"a {name} is still open", place, "close it")
