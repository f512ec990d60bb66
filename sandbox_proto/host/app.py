"""The control plane of a host: every decision, no deed.

`Host.respond` gives a flow (as the client's flows are): it yields what is to be done,
is told that it is done, and returns the answer. Records live in memory; what must outlive
the process is handed to the driver (`Save`) before it is acknowledged.
"""

from __future__ import annotations

import hmac

from ..errors import LocalProtocolError
from .box_routes import BoxRoutes
from .effects import HostFlow
from .messages import HostError, HostRequest, HostResponse
from .registry_routes import RegistryRoutes
from .routing import CONTROL_PLANE, Match, find_route
from .service_routes import ServiceRoutes
from .snapshot_routes import SnapshotRoutes


class Host(BoxRoutes, SnapshotRoutes, ServiceRoutes, RegistryRoutes):
    """See the module's text."""

    def respond(self, request: HostRequest, *, now: float) -> HostFlow[HostResponse]:
        """The answer to a control-plane request; errors are answers too."""
        try:
            match = self.route(request)
            if match.name not in CONTROL_PLANE:
                raise LocalProtocolError(f"{match.name} is not a control-plane route")
            handler = getattr(self, match.name)
            response: HostResponse = yield from handler(request, *match.names, now=now)
            return response
        except HostError as error:
            return error.response()

    def route(self, request: HostRequest) -> Match:
        """The route of a request by somebody who may make it.

        :raises HostError: there is no such route, or the key is missing or wrong.
        """
        match = find_route(request.method, request.path)
        keys = self.settings.api_keys
        given = request.headers.get("x-api-key", "").encode()
        # Every key is compared, so that the time taken tells nothing.
        matches = [hmac.compare_digest(given, key.encode()) for key in keys]
        if keys and True not in matches:
            raise HostError(401, "Unauthorized", "the X-Api-Key header is missing or wrong")
        return match
