"""The client inside other people's programs: FastAPI, a trio service, a notebook's running loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
import trio
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from hypercorn.config import Config
from hypercorn.trio import serve

from sandbox_anyio import AsyncSandboxClient, SandboxClient
from sandbox_trio_compat import open_sandbox_client, run_process


def application(where: dict[str, Any]) -> FastAPI:
    """A service that runs what it is asked to."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncSandboxClient(**where) as client, client.sandbox() as sandbox:
            app.state.sandbox = sandbox
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/run")
    async def run(request: Request, command: str) -> dict[str, Any]:
        result = await request.app.state.sandbox.run(command)
        return {"stdout": result.stdout, "exit_code": result.exit_code}

    @app.get("/stream")
    async def stream(request: Request, command: str) -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            handle = await request.app.state.sandbox.run(command, wait=False)
            async with handle:
                async for chunk in handle:
                    yield chunk.data

        return StreamingResponse(pieces())

    return app


def test_fastapi(where: dict[str, Any]) -> None:
    """Many requests share one client."""

    async def story() -> None:
        app = application(where)
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as browser,
        ):
            answers = await asyncio.gather(
                *(browser.get("/run", params={"command": f"echo {n}; exit {n}"}) for n in range(8))
            )
            told = [answer.json() for answer in answers]
            assert told == [{"stdout": f"{n}\n", "exit_code": n} for n in range(8)]
            streamed = await browser.get("/stream", params={"command": "echo one; echo two"})
            assert streamed.text == "one\ntwo\n"

    asyncio.run(story())


def test_a_trio_service_with_hypercorn(where: dict[str, Any]) -> None:
    """An ASGI application of one's own, over real sockets, ended in order."""

    async def story() -> None:
        async with open_sandbox_client(**where) as client, client.sandbox() as sandbox:

            async def app(scope: Any, receive: Any, send: Any) -> None:
                while scope["type"] == "lifespan":
                    happened = (await receive())["type"]
                    await send({"type": f"{happened}.complete"})
                    if happened == "lifespan.shutdown":
                        return
                shout, asked = ["tr", "a-z", "A-Z"], await body(receive)
                done = await run_process(sandbox, shout, stdin=asked, capture_stdout=True)
                headers = [(b"content-length", b"%d" % len(asked))]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": done.stdout})

            async def body(receive: Any) -> bytes:
                content, more = b"", True
                while more:
                    message = await receive()
                    content += message.get("body", b"")
                    more = message.get("more_body", False)
                return content

            config, ended = Config(), trio.Event()
            config.bind = [f"127.0.0.1:{free_port()}"]
            config.errorlog = None
            async with trio.open_nursery() as nursery:
                [url] = await nursery.start(
                    partial(serve, app, config, shutdown_trigger=ended.wait)
                )
                async with httpx.AsyncClient() as browser:
                    answer = await browser.post(url, content=b"hello")
                assert answer.content == b"HELLO"
                ended.set()

    trio.run(story)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_cells_of_a_notebook(where: dict[str, Any]) -> None:
    """Cells run inside a loop that goes on; what one makes, later ones use."""
    names: dict[str, Any] = {"SandboxClient": SandboxClient, "where": where}
    cells = [
        "client = SandboxClient(**where)\nsandbox = client.create_sandbox()",
        "seen = []\nresult = sandbox.run('echo in a cell', on_stdout=seen.append)",
        "handle = sandbox.run('cat', wait=False, close_input=False)",
        "handle.send_input('typed')\nhandle.close_input()\nsaid = ''.join(c.data for c in handle)",
        "sandbox.delete()\nclient.close()",
    ]

    async def notebook() -> None:
        for cell in cells:
            exec(compile(cell, "<cell>", "exec"), names)
            await asyncio.sleep(0)

    asyncio.run(notebook())
    assert (names["seen"], names["said"]) == (["in a cell\n"], "typed")
    with pytest.raises(Exception, match="closed"):
        names["client"].list_sandboxes()
