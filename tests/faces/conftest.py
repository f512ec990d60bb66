"""The faces of the client, and what every one of them is asked to do.

A test body is blocking code; it gets a `Face`, which gives it clients. A new face joins by an
entry in `FACES`: how it opens a client, for the length of a block, that answers to the names of
`SandboxClient`. What a face calls otherwise it overrides in a `Face` of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import attrs
import pytest
from anyio.from_thread import start_blocking_portal

from sandbox_anyio import AsyncSandboxClient, SandboxClient
from sandbox_anyio.local.launch import LocalHost

from . import _trio_compat
from ._driven import Driven


@attrs.frozen
class Face:
    """One way to use the client.

    :ivar name: what tests with it are called.
    :ivar open_client: a client for the length of a block; takes the client's settings.
    :ivar blocks: whether what it takes bit by bit is an ordinary iterable.
    """

    name: str
    open_client: Callable[..., AbstractContextManager[Any]]
    blocks: bool = False

    def pieces(self, *pieces: bytes) -> Iterable[bytes] | AsyncIterable[bytes]:
        """The body of a request, bit by bit."""
        return iter(pieces) if self.blocks else _later(pieces)

    def connect(self, sandbox: Any, port: int) -> Any:
        """A byte stream to a port: ``send``, ``receive``, ``send_eof``, ``close``."""
        return sandbox.connect(port)


def _open_driven(backend: str) -> Callable[..., AbstractContextManager[Any]]:
    @contextmanager
    def open_client(**settings: Any) -> Iterator[Any]:
        with (
            start_blocking_portal(backend) as portal,
            Driven(AsyncSandboxClient(**settings), portal) as client,
        ):
            yield client

    return open_client


async def _later(pieces: Iterable[bytes]) -> AsyncIterable[bytes]:
    for piece in pieces:
        yield piece


class _TrioCompat(Face):
    def connect(self, sandbox: Any, port: int) -> Any:
        if isinstance(sandbox, _trio_compat.TrioSandbox):
            return sandbox.open_tcp_stream(port)
        return super().connect(sandbox, port)


FACES = [
    Face("asyncio", _open_driven("asyncio")),
    Face("trio", _open_driven("trio")),
    Face("sync", SandboxClient, blocks=True),
    _TrioCompat("trio-compat", _trio_compat.open_client),
]


@pytest.fixture(scope="module", params=FACES, ids=lambda face: face.name)
def face(request: pytest.FixtureRequest) -> Face:
    chosen: Face = request.param
    return chosen


@pytest.fixture(scope="session")
def where(host: LocalHost) -> dict[str, Any]:
    """Settings of a client of the embedded host."""
    return {"api_endpoint": host.endpoint, "api_key": host.api_key, "trust_env": False}


@pytest.fixture(scope="module")
def client(face: Face, where: dict[str, Any]) -> Iterator[Any]:
    """One client, for all that a face does."""
    with face.open_client(**where) as client:
        yield client


@pytest.fixture(scope="module")
def sandbox(client: Any) -> Iterator[Any]:
    """A sandbox for tests that leave it as it was, but for files of their own."""
    with client.sandbox() as sandbox:
        yield sandbox
