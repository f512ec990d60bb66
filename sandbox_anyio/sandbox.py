"""One sandbox, for use: run commands, read and write files, let it go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from operator import attrgetter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import attrs

from sandbox_proto.errors import SandboxClientError
from sandbox_proto.flows.services import service_request
from sandbox_proto.wire.creation import run_config_payload
from sandbox_proto.wire.models import DownloadURL, RunConfig, SandboxRecord, Snapshot

from .log import client_log
from .sandbox_directories import DirectoryMethods
from .sandbox_files import FileMethods
from .sandbox_search import SearchMethods
from .sandbox_tunnels import TunnelMethods
from .service import AsyncServiceURL

if TYPE_CHECKING:
    from sandbox_proto.wire.typed_dicts import DownloadContentDisposition

    from .blocking.client import SandboxClient
    from .blocking.sandbox import Sandbox
    from .client import AsyncSandboxClient

# How long leaving a sandbox's block may take to delete it, in seconds.
DELETE_PATIENCE = 15.0

_record_fields = attrgetter(
    *(field.name for field in attrs.fields(SandboxRecord) if not field.kw_only)
)


@attrs.define
class AsyncSandbox(DirectoryMethods, FileMethods, SearchMethods, TunnelMethods):
    """A sandbox and what can be done in it.

    As an async context manager it deletes the sandbox on exit if it was made by
    `AsyncSandboxClient.sandbox`, and does nothing if it came from elsewhere.
    """

    @classmethod
    def from_record(
        cls, record: SandboxRecord, client: AsyncSandboxClient, *, auto_delete: bool
    ) -> Self:
        """Give a record its client."""
        fields = _record_fields(record)
        return cls(*fields, raw=record.raw, client=client, auto_delete=auto_delete)

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], client: AsyncSandboxClient, auto_delete: bool = True
    ) -> Self:
        """From the JSON of a sandbox.

        :raises SandboxProtocolError: it is not a sandbox object.
        """
        return cls.from_json({**data}, client, auto_delete=auto_delete)

    @classmethod
    def from_json(cls, data: object, client: AsyncSandboxClient, *, auto_delete: bool) -> Self:
        """From the JSON of a sandbox, which goes over to it.

        :raises SandboxProtocolError: it is not a sandbox object.
        """
        if type(data) is dict:
            plain = cls.parse_plain(data, client=client, auto_delete=auto_delete)
            if plain is not None:
                return plain
        return cls.from_record(SandboxRecord.parse(data), client, auto_delete=auto_delete)

    def to_sync(self, *, client: SandboxClient | None = None) -> Sandbox:
        """The same sandbox for code that blocks. Leaving its block does not delete it.

        :param client: what it uses; default: a new one like this one's, which is yours to close.
        """
        from .blocking.sandbox import Sandbox

        return Sandbox.from_record(self, client or self._client.to_sync(), auto_delete=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._auto_delete:
            return
        # Also when cancelled: a sandbox that stays behind costs money.
        with self._client.network.shielded(DELETE_PATIENCE) as shield:
            try:
                await self.delete()
            except SandboxClientError as error:
                client_log.warning("sandbox %s was not deleted: %s", self.name, error)
        if shield.expired:
            client_log.warning("sandbox %s was not deleted within %g s", self.name, DELETE_PATIENCE)

    # --- lifecycle --------------------------------------------------------------------

    async def start(self, *, timeout: int = 120, headers: Mapping[str, str] | None = None) -> None:
        """Start the sandbox and wait until it is ready; updates this object's status and URL.

        :param timeout: in seconds.
        :raises ResourceCreationError: it failed.
        :raises ResourceTimeoutError: it was not ready in time.
        """
        started = await self._client.start_sandbox(self.name, timeout=timeout, headers=headers)
        self.status = started.status
        self.dataplane_url = started.dataplane_url

    async def stop(self, *, headers: Mapping[str, str] | None = None) -> None:
        """Stop the sandbox: its processes end, its files stay if it is persistent.

        :raises ResourceNotFoundError: it is gone.
        """
        await self._client.stop_sandbox(self.name, headers=headers)
        self.status = "stopped"

    async def delete(self, *, headers: Mapping[str, str] | None = None) -> None:
        """Delete the sandbox and everything in it.

        :raises ResourceNotFoundError: it is gone already.
        """
        await self._client.delete_sandbox(self.name, headers=headers)

    async def capture_snapshot(
        self,
        name: str,
        *,
        run_config: RunConfig | Mapping[str, Any] | None = None,
        timeout: int = 60,
        headers: Mapping[str, str] | None = None,
    ) -> Snapshot:
        """Make a snapshot of the sandbox's files, and wait until it is ready.

        :param name: the snapshot's name; its tag is ``latest``.
        :param run_config: over that of the sandbox.
        :param timeout: how long it may take, in seconds.
        :raises ResourceCreationError: it failed.
        :raises ResourceTimeoutError: it was not ready in time.
        """
        body: dict[str, Any] = {"name": name}
        if (payload := run_config_payload(run_config)) is not None:
            body["run_config"] = payload
        return await self._client._capture(self.name, self.id, body, timeout, headers)

    # --- services ---------------------------------------------------------------------

    async def service(
        self,
        port: int,
        *,
        expires_in_seconds: int = 600,
        embed_origins: Sequence[str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncServiceURL:
        """An address for what listens on a port inside the sandbox.

        :param port: 1 to 65535.
        :param expires_in_seconds: how long a token is valid, 1 to 86400; it is renewed by itself.
        :param embed_origins: sites that may show it in a frame, at most 5.
        :raises ValueError: an argument is out of range.
        """
        body = service_request(
            port, expires_in_seconds=expires_in_seconds, access=None, embed_origins=embed_origins
        )
        minted = await self._client._service_url(self.name, body, dict(headers or {}))
        assert isinstance(minted, AsyncServiceURL)  # no access was asked for
        return minted

    async def generate_download_url(
        self,
        path: str,
        *,
        expires_in_seconds: int | None = None,
        content_type: str | None = None,
        content_disposition: DownloadContentDisposition | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> DownloadURL:
        """A link by which anybody can fetch one file of the sandbox.

        :param path: the file.
        :param expires_in_seconds: at least 1; default: it never expires.
        :param content_type: what the answer says the file is.
        :param content_disposition: whether a browser saves or shows it.
        :raises ValueError: an argument is out of range.
        """
        return await self._client.generate_download_url(
            self.name,
            path,
            expires_in_seconds=expires_in_seconds,
            content_type=content_type,
            content_disposition=content_disposition,
            headers=headers,
        )


class SandboxOpening:
    """What `AsyncSandboxClient.sandbox` returns: await it, or enter it, or both."""

    def __init__(self, create: Callable[[], Awaitable[AsyncSandbox]]) -> None:
        self._create = create
        self._sandbox: AsyncSandbox | None = None

    def __await__(self) -> Generator[Any, Any, AsyncSandbox]:
        return self._create().__await__()

    async def __aenter__(self) -> AsyncSandbox:
        self._sandbox = await self._create()
        return await self._sandbox.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._sandbox is not None
        await self._sandbox.__aexit__(exc_type, exc, traceback)
