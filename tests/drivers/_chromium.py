"""A real browser, remote-controlled over the project's own WebSocket."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from sandbox_anyio import AsyncWebSocket
from sandbox_anyio.base import ClientBase
from sandbox_anyio.websocket import open_websocket
from sandbox_proto.wire.urls import Url

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]


class Tab:
    """One page of the browser.

    :ivar events: what the browser told about it, in order.
    """

    def __init__(self, socket: AsyncWebSocket) -> None:
        self._socket = socket
        self._session: dict[str, str] = {}
        self._calls = 0
        self.events: list[dict[str, Any]] = []
        self._walked = 0

    async def begin(self) -> None:
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", **target, flatten=True)
        self._session = attached
        for domain in ("Page", "Network", "Runtime"):
            await self.call(f"{domain}.enable")

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask the browser for something."""
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params, **self._session}
        await self._socket.send(json.dumps(message))
        while (answer := await self._next()).get("id") != self._calls:
            pass
        assert "error" not in answer, answer
        result = answer["result"]
        assert isinstance(result, dict)
        return result

    async def _next(self) -> dict[str, Any]:
        text = await self._socket.receive()
        assert text is not None, "the browser is gone"
        message = json.loads(text)
        if "method" in message:
            self.events.append(message)
        assert isinstance(message, dict)
        return message

    async def open(self, url: str, *, arriving_at: str) -> None:
        """Load a page, and all that it loads, wherever redirects and scripts lead."""
        await self.call("Page.navigate", url=url)
        await self._until(
            lambda event: (
                event["method"] == "Page.frameNavigated"
                and arriving_at in event["params"]["frame"]["url"]
            )
        )
        await self._until(lambda event: event["method"] == "Page.loadEventFired")

    async def _until(self, happened: Callable[[dict[str, Any]], bool]) -> None:
        """Walk on through the events, up to one."""
        while True:
            while self._walked == len(self.events):
                await self._next()
            self._walked += 1
            if happened(self.events[self._walked - 1]):
                return

    async def evaluate(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        done = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def picture(self, path: Path) -> None:
        """Keep what the page looks like, for people."""
        shot = await self.call("Page.captureScreenshot")
        await anyio.Path(path).write_bytes(base64.b64decode(shot["data"]))

    def requests(self) -> list[dict[str, Any]]:
        """The requests that the page made, in order."""
        return [
            event["params"]["request"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]


@asynccontextmanager
async def open_tab(profile: Path) -> AsyncIterator[Tab]:
    """A fresh browser with one empty page."""
    command = [str(PROGRAM), *OPTIONS, f"--user-data-dir={profile}"]
    process = await anyio.open_process(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        with anyio.fail_after(60):
            assert process.stderr is not None
            lines = BufferedByteReceiveStream(process.stderr)
            found = None
            while found is None:
                line = (await lines.receive_until(b"\n", 65536)).decode()
                found = re.search(r"listening on (ws://\S+)", line)
            async with ClientBase(
                api_endpoint="http://localhost", api_key="unused", trust_env=False
            ) as client:
                tab = Tab(await open_websocket(client, Url.parse(found[1]), {}))
                await tab.begin()
                yield tab
    finally:
        process.kill()
        with anyio.CancelScope(shield=True):
            await process.aclose()
