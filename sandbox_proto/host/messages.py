"""Requests and responses from the server's side, and errors as responses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs


@attrs.frozen
class HostRequest:
    """One request as a host sees it.

    :ivar path: the raw path, still percent-encoded, without query.
    :ivar query: the raw query string.
    :ivar headers: names in lower case.
    :ivar origin: scheme and authority by which the client reached this host.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes = b""
    origin: str = "http://localhost"

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; an empty body is an empty object.

        :raises HostError: it is no JSON object.
        """
        if not self.body.strip():
            return {}
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise HostError(400, "InvalidRequest", f"the body is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise HostError(400, "InvalidRequest", "the body must be a JSON object")
        return value


@attrs.frozen
class HostResponse:
    """One answer.

    :ivar payload: a JSON value, or None for no body; bytes are sent as they are.
    """

    status: int
    payload: Any = None
    headers: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def body(self) -> bytes:
        """The payload as JSON in ASCII."""
        if isinstance(self.payload, bytes):
            return self.payload
        return b"" if self.payload is None else json.dumps(self.payload).encode()


class HostError(Exception):
    """A refusal, in the canonical shape of protocol/03 section 2.1.

    :ivar status: the HTTP status.
    :ivar type: the machine-readable type.
    :ivar message: for people.
    :ivar complaints: for validation errors, what is wrong with which field.
    """

    def __init__(
        self,
        status: int,
        type: str,
        message: str,
        *,
        complaints: list[dict[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.type, self.message = status, type, message
        self.complaints = complaints
        self.headers = dict(headers or {})

    @classmethod
    def invalid(cls, field: str, message: str) -> HostError:
        """422 about one field of the body, in the form that clients take for a validation error."""
        complaint = {"loc": ["body", field], "msg": message, "type": "value_error"}
        return cls(422, "ValidationError", message, complaints=[complaint])

    def response(self) -> HostResponse:
        """The answer that says so."""
        detail: Any = {"error": self.type, "message": self.message}
        if self.complaints is not None:
            detail = self.complaints
        return HostResponse(self.status, {"detail": detail}, self.headers)
