"""Traces made by hand: a header and lines, without a core behind them."""

from __future__ import annotations

import json
from typing import Any

from sandbox_proto.trace.lines import Trace

ORIGIN = {"type": "wire.urls.Origin", "scheme": "http", "host": "127.0.0.1", "port": 4000}


class Script:
    """Writes a trace; every line comes a little later than the one before.

    :ivar now: the time of the next line.
    """

    def __init__(self, endpoint: str = "http://127.0.0.1:4000") -> None:
        self._texts = [json.dumps({"sandbox-trace": 1, "config": {"api_endpoint": endpoint}})]
        self.now = 0.0

    def add(self, actor: str, call: str | None, given: Any = None, *then: Any) -> None:
        data: dict[str, Any] = {"at": round(self.now, 6), "actor": actor}
        if call is not None and call.startswith("new "):
            data["new"] = call.removeprefix("new ")
        elif call is not None:
            data["call"] = call
        self._texts.append(json.dumps({**data, "with": given or {}, "then": list(then)}))
        self.now += 0.01

    def trace(self) -> Trace:
        return Trace.parse(self._texts)

    # --- flows ------------------------------------------------------------------------

    def flow(self, actor: str, made: str, given: Any, *then: Any) -> None:
        self.add(actor, f"new {made}", given, *then)

    def answered(self, actor: str, status: int, *then: Any, body: str = "") -> None:
        response = {"type": "wire.http.Response", "status": status, "reason": ""}
        response |= {"headers": [], "body": {"text": body}}
        outcome = {"type": "flows.effects.Answered", "response": response}
        self.add(actor, "send", {"outcome": outcome}, *then)

    def broke(self, actor: str, message: str, *then: Any) -> None:
        fault = {"type": "faults.Fault", "message": message}
        outcome = {"type": "flows.effects.Broke", "fault": fault}
        self.add(actor, "send", {"outcome": outcome}, *then)

    def woke(self, actor: str, *then: Any) -> None:
        self.add(actor, "send", {"outcome": {"type": "flows.effects.Woke"}}, *then)

    # --- connections ------------------------------------------------------------------

    def exchange(self, actor: str, method: str, target: str, status: int, body: bytes) -> None:
        """A request on a connection, and its answer in two reads."""
        self.add(actor, "send_request", {"request": request(method, target)})
        head = f"HTTP/1.1 {status} \r\ncontent-length: {len(body)}\r\n\r\n".encode()
        self.add(actor, "receive_data", {"data": {"latin1": (head + body[:3]).decode("latin-1")}})
        done = {"type": "machines.http1.ExchangeDone", "body": spelt(body)}
        begun = {"type": "machines.http1.ResponseHead", "status": status, "headers": []}
        data = {"latin1": body[3:].decode("latin-1")}
        self.add(actor, "receive_data", {"data": data}, {"event": begun}, {"event": done})

    def command(self, actor: str, text: str) -> None:
        """A command that is started, and its WebSocket opened."""
        spec = {"type": "flows.commands.CommandSpec", "command": text, "timeout": 60}
        self.add(actor, "new flows.commands.start_command", {"spec": spec})
        self.attach(actor)
        self.add(actor, None, None, event("exec_events.CommandStarted", pid=4))

    def attach(self, actor: str) -> None:
        asked = "GET /v2/sandboxes/a/execute/ws HTTP/1.1\r\nupgrade: websocket\r\n\r\n"
        self.add(actor, "connected", None, {"send": [{"text": asked}]})
        self.heard(actor, b"HTTP/1.1 101 Switching Protocols\r\n\r\n")

    def heard(self, actor: str, data: bytes, *then: Any) -> None:
        self.add(actor, "receive_data", {"data": {"latin1": data.decode("latin-1")}}, *then)

    def output(self, actor: str, *texts: str, stream: str = "stdout") -> None:
        for text in texts:
            self.add(actor, None, None, chunk(text, stream))

    def exit(self, actor: str, code: int) -> None:
        self.add(actor, None, None, event("exec_events.CommandExited", exit_code=code))


def spelt(body: bytes) -> dict[str, str]:
    return {"latin1": body.decode("latin-1")}


def request(method: str, target: str, body: str = "") -> dict[str, Any]:
    url = {"type": "wire.urls.Url", "origin": ORIGIN, "target": target}
    parts = [{"text": body}] if body else []
    return {
        "type": "wire.http.Request",
        "method": method,
        "url": url,
        "headers": {},
        "body": parts,
    }


def perform(method: str, target: str, body: str = "") -> dict[str, Any]:
    return {"effect": {"type": "flows.effects.Perform", "request": request(method, target, body)}}


def wait(when: float) -> dict[str, Any]:
    return {"effect": {"type": "flows.effects.WaitUntil", "when": when}}


def event(name: str, **fields: Any) -> dict[str, Any]:
    return {"event": {"type": f"machines.{name}", **fields}}


def chunk(text: str, stream: str = "stdout") -> dict[str, Any]:
    return {"event": {"type": "wire.command_models.OutputChunk", "stream": stream, "data": text}}


def frame(text: bytes, opcode: int = 1) -> bytes:
    """A frame of a server's."""
    size = bytes([len(text)]) if len(text) < 126 else b"\x7e" + len(text).to_bytes(2)
    return bytes([0x80 | opcode]) + size + text


def busy(
    *,
    port: int = 4000,
    name: str = "sandbox-0123456789ab",
    number: str = "79ff63a3-ac36-4b0c-b2b9-e66e095255de",
    key: str = "0123456789abcdef0123456789abcdef",
    date: str = "2026-11-25T04:44:34.087761Z",
    pace: float = 0.0,
    polls: int = 2,
    status: int = 201,
    label: str = "blue",
    pieces: tuple[str, ...] = ("hello ", "world\n"),
    exit_code: int = 0,
    cut: bool = False,
    late_delete: bool = True,
    sent: str = "ping",
    answer: str = "pong",
) -> Script:
    """A recording of a program: creates, polls, runs two things side by side, tunnels, deletes.

    Everything by name may be different in another run of it.
    """
    script = Script(f"http://127.0.0.1:{port}")
    body = json.dumps({"name": name, "labels": {"colour": label}, "key": key})
    create = perform("POST", "/boxes", body)
    script.flow("flow-1", "flows.creation.Creation.run", {"self": {"name": name}}, create)
    script.add("http-1", "new machines.http1.Http1Client")
    made = json.dumps({"id": number, "created_at": date}).encode()
    script.exchange("http-1", "POST", "/boxes", status, made)
    ready = perform("GET", f"/boxes/{name}")
    script.answered("flow-1", status, ready)
    for _ in range(polls):
        script.answered("flow-1", 200, wait(script.now + 0.5 + pace))
        script.now += 0.5 + pace
        script.woke("flow-1", ready)
    script.answered("flow-1", 200, {"returned": None})
    script.command("command-1", "make")
    script.command("command-2", "sleep 9")
    for piece in pieces:
        script.output("command-1", piece)
        script.now += pace
    if cut:
        again = event("exec_events.Reattaching", reason="cut", delay=0.5)
        script.add("command-1", "connection_lost", {"fault": {"message": "cut"}}, again)
        script.attach("command-1")
    script.exit("command-1", exit_code)
    script.exit("command-2", 0)
    tunnel = "new machines.tunnel_session.TunnelSession"
    script.add("tunnel-1", tunnel, {"base": f"http://127.0.0.1:{port}/v2/sandboxes/{number}"})
    script.attach("tunnel-1")
    script.add("tunnel-1", "open", {"port": 80}, {"gave": 1})
    script.add("tunnel-1", "send", {"stream": 1, "data": {"text": sent}}, {"gave": len(sent)})
    heard = event("yamux_events.StreamData", stream=1, data={"text": answer})
    script.add("tunnel-1", None, None, heard)
    script.add("tunnel-1", "close_stream", {"stream": 1})
    if late_delete:
        gone = perform("DELETE", f"/boxes/{name}")
        script.flow("flow-2", "flows.sandboxes.delete_sandbox", {"name": name}, gone)
        script.answered("flow-2", 204, {"returned": None})
    return script
