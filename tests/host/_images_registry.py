"""A registry in threads of this process, and fetching from it."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import re
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import attrs

from sandbox_anyio.local.images import (
    Credentials,
    FetchSettings,
    Image,
    ImageStore,
    Patience,
    fetch_image,
)
from sandbox_proto.plans.retry import RetryPolicy

from ._images import MANIFEST, HeldRuntime, MadeImage
from ._runtime import Result, run, spec

HURRIED = FetchSettings(
    patience=Patience(seconds=5.0, retry=RetryPolicy(max_retries=1, initial=0.01, jitter=0.01))
)
"""As usual, but for tests that wait for failures."""

_numbers = itertools.count()


@attrs.define
class Asked:
    """A request that a registry got."""

    path: str
    headers: dict[str, str]


class FakeRegistry:
    """A registry in threads of this process, as good or as bad as a test wants it.

    :ivar token: what a client must show; None lets everybody in.
    :ivar users: who gets a token, by user name; empty: everybody.
    :ivar realm: where tokens are got; None is here.
    :ivar basic: ask for a name and a password instead of a token.
    :ivar blobs_elsewhere: where blobs are redirected to, as a URL to which the path is added.
    :ivar cuts: after how many bytes blobs are cut off, one number for each request.
    :ivar ranges: whether the rest of a blob can be asked for.
    :ivar drip: seconds between single bytes of blobs.
    :ivar asked: all requests so far.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[bytes, str | None]] = {}
        self.token: str | None = None
        self.users: dict[str, str] = {}
        self.realm: str | None = None
        self.basic = False
        self.blobs_elsewhere: str | None = None
        self.cuts: list[int] = []
        self.ranges = True
        self.drip = 0.0
        self.asked: list[Asked] = []
        self.answer_with: tuple[int, bytes] | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self._server.daemon_threads = False
        self.stopping = threading.Event()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def serve(
        self,
        repository: str,
        tag: str,
        image: MadeImage,
        *,
        document: bytes | None = None,
        kind: str | None = MANIFEST,
    ) -> str:
        """Have an image; returns its reference. `document`, if given, is what the tag means."""
        self.blobs |= image.blobs
        self.manifests[repository, image.digest] = (image.manifest, MANIFEST)
        self.manifests[repository, tag] = (document or image.manifest, kind)
        return f"{self.host}/{repository}:{tag}"

    def paths(self, part: str = "") -> list[str]:
        return [asked.path for asked in self.asked if part in asked.path]

    @contextlib.contextmanager
    def running(self) -> Iterator[FakeRegistry]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self.stopping.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10

    def __init__(self, registry: FakeRegistry, *args: Any) -> None:
        self.registry = registry
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        registry = self.registry
        headers = {name.lower(): value for name, value in self.headers.items()}
        registry.asked.append(Asked(self.path, headers))
        with contextlib.suppress(ConnectionError):
            if registry.answer_with is not None:
                self._send(*registry.answer_with)
            elif self.path.startswith("/token"):
                self._give_token(headers)
            elif not self._is_let_in(headers):
                self._challenge()
            else:
                self._serve(headers)

    def _is_let_in(self, headers: Mapping[str, str]) -> bool:
        registry = self.registry
        shown = headers.get("authorization")
        if registry.basic:
            return _user(shown) in registry.users.items()
        return registry.token is None or shown == f"Bearer {registry.token}"

    def _challenge(self) -> None:
        registry = self.registry
        if registry.basic:
            value = 'Basic realm="a registry, with a comma"'
        else:
            realm = registry.realm or f"{registry.url}/token"
            value = f'Bearer realm="{realm}",service="tests",scope="repository:x:pull"'
        self._send(401, b'{"errors": [{"code": "UNAUTHORIZED"}]}', {"WWW-Authenticate": value})

    def _give_token(self, headers: Mapping[str, str]) -> None:
        registry = self.registry
        query = parse_qs(urlsplit(self.path).query)
        assert query["service"] == ["tests"]
        if registry.users and _user(headers.get("authorization")) not in registry.users.items():
            self._send(401, b"{}")
        else:
            self._send(200, json.dumps({"token": registry.token}).encode())

    def _serve(self, headers: Mapping[str, str]) -> None:
        registry = self.registry
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/]+)", self.path)
        if match is None:
            self._send(404, b"{}")
            return
        repository, what, version = match.groups()
        if what == "blobs":
            if registry.blobs_elsewhere is not None:
                self._send(307, b"elsewhere", {"Location": registry.blobs_elsewhere + self.path})
            elif version in registry.blobs:
                self._send_blob(registry.blobs[version], headers.get("range"))
            else:
                self._send(404, b'{"errors": [{"code": "BLOB_UNKNOWN"}]}')
        elif (repository, version) in registry.manifests:
            data, kind = registry.manifests[repository, version]
            self._send(200, data, {"Content-Type": kind} if kind else {})
        else:
            known = any(name == repository for name, _ in registry.manifests)
            code = "MANIFEST_UNKNOWN" if known else "NAME_UNKNOWN"
            self._send(404, json.dumps({"errors": [{"code": code}]}).encode())

    def _send_blob(self, blob: bytes, wanted: str | None) -> None:
        registry = self.registry
        more = {}
        status = 200
        if wanted is not None and registry.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            more["Content-Range"] = f"bytes {start}-{len(blob) - 1}/{len(blob)}"
            status, blob = 206, blob[start:]
        if registry.cuts:
            self._begin(status, len(blob), more)
            self.wfile.write(blob[: registry.cuts.pop(0)])
            self.close_connection = True
        elif registry.drip:
            self._begin(status, len(blob), more)
            for position in range(len(blob)):
                if registry.stopping.wait(registry.drip):
                    return
                self.wfile.write(blob[position : position + 1])
        else:
            self._send(status, blob, more)

    def _begin(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self._begin(status, len(body), headers or {})
        self.wfile.write(body)


def _user(authorization: str | None) -> tuple[str, str] | None:
    if authorization is None or not authorization.startswith("Basic "):
        return None
    name, _, password = base64.b64decode(authorization[6:]).decode().partition(":")
    return name, password


# --- Fetching --------------------------------------------------------------------------


@attrs.frozen
class Fetcher:
    """A store of one test, and fetching into it."""

    held: HeldRuntime
    store: ImageStore
    place: Path

    @classmethod
    def fresh(cls, held: HeldRuntime) -> Fetcher:
        place = held.state / f"images-{next(_numbers)}"
        return cls(held, ImageStore(held.runtime, place), place)

    async def fetch(
        self,
        reference: str,
        credentials: Credentials | None = None,
        settings: FetchSettings = HURRIED,
    ) -> Image:
        with anyio.fail_after(20):
            return await fetch_image(
                reference, self.store, credentials=credentials, settings=settings
            )

    def __call__(self, *args: Any, **more: Any) -> Image:
        image: Image = self.held.call(self.fetch, *args, **more)
        return image

    def remove(self, layer: Path) -> None:
        self.held.call(self.held.runtime.layers.remove, layer)

    def digest_of(self, layer: Path) -> str:
        """The digest that a layer is kept for."""
        digest: str = json.loads(layer.with_name(f"{layer.name}.json").read_text())["digest"]
        return digest

    def names(self) -> list[str]:
        return sorted(path.name for path in self.place.glob("*") if path.is_dir())

    def run(self, image: Image, script: str) -> Result:
        """Run a shell script in a sandbox of an image, as the image wants it."""

        async def look() -> Result:
            box = spec(self.held.state, f"box-{next(_numbers)}")
            sandbox = await self.held.runtime.build(
                attrs.evolve(box, layers=image.layers, system="layers")
            )
            try:
                return await run(
                    sandbox, "sh", "-c", script, env=image.config.env, cwd=image.config.work_dir
                )
            finally:
                await sandbox.destroy()

        result: Result = self.held.call(look)
        return result
