"""What is in ``sandbox_anyio/service.py``, for code that blocks.

Written by ``python -m sandbox_anyio.blocking.generate``, which see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...service import DEFAULT_TIMEOUT, AsyncServiceURL
from ..base import Blocking
from ..callers import pieces_in_caller

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from sandbox_proto.plans.timeouts import Timeouts

    from ..service import BlockingServiceResponse
    from ..websocket import WebSocket


class ServiceURLMethods(Blocking[AsyncServiceURL]):
    """See `ServiceURL`."""

    def request(
        self,
        method: str,
        path: str = "/",
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        content: str | bytes | Iterable[bytes] | None = None,
        json: Any = None,
        timeout: float | Timeouts = DEFAULT_TIMEOUT,
        stream: bool = False,
    ) -> BlockingServiceResponse:
        """Ask the service. Any status is returned; redirects are not followed; nothing is repeated.

        :param path: below the service's base URL; may hold a query.
        :param params: appended as a query.
        :param content: the body; what comes bit by bit is sent so.
        :param json: the body, as a JSON value.
        :param timeout: seconds for each step, above 0; or in detail.
        :param stream: give a successful answer before its body, for `iter_bytes`.
        :raises SandboxConnectionError: no answer could be had.
        """
        made = self._call(
            lambda it: it.request(
                method,
                path,
                headers=headers,
                params=params,
                content=pieces_in_caller(content),
                json=json,
                timeout=timeout,
                stream=stream,
            )
        )
        return self._answer(made)

    def get(self, path: str = "/", **kwargs: Any) -> BlockingServiceResponse:
        """`request` with GET."""
        return self.request("GET", path, **kwargs)

    def post(self, path: str = "/", **kwargs: Any) -> BlockingServiceResponse:
        """`request` with POST."""
        return self.request("POST", path, **kwargs)

    def put(self, path: str = "/", **kwargs: Any) -> BlockingServiceResponse:
        """`request` with PUT."""
        return self.request("PUT", path, **kwargs)

    def patch(self, path: str = "/", **kwargs: Any) -> BlockingServiceResponse:
        """`request` with PATCH."""
        return self.request("PATCH", path, **kwargs)

    def delete(self, path: str = "/", **kwargs: Any) -> BlockingServiceResponse:
        """`request` with DELETE."""
        return self.request("DELETE", path, **kwargs)

    def websocket(
        self,
        path: str = "/",
        *,
        headers: Mapping[str, str] | None = None,
        subprotocols: tuple[str, ...] = (),
    ) -> WebSocket:
        """Open a WebSocket to the service.

        :param path: below the service's base URL; may hold a query.
        :raises SandboxConnectionError: it could not be opened.
        """
        made = self._call(lambda it: it.websocket(path, headers=headers, subprotocols=subprotocols))
        return self._websocket(made)
