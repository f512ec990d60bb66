"""URLs: taken apart, put together and quoted (protocol/01 sections 3 and 9).

User-given names enter URLs only through `quote_segment` and `with_query`, so no
name can reach another path than its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Self
from urllib.parse import quote, urlencode, urlsplit

import attrs

_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNSAFE_IN_TARGET = re.compile(r"[\x00-\x20\x7f]")
_HOST = re.compile(r"[\x21-\x7e]+")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


@attrs.frozen
class Origin:
    """Where to connect to: scheme, host and port.

    :ivar scheme: ``http`` or ``https``.
    :ivar host: host name or address; IPv6 without brackets.
    :ivar port: 1 to 65535.
    """

    scheme: str
    host: str
    port: int

    @property
    def secure(self) -> bool:
        """Whether to speak TLS."""
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """``host:port``, IPv6 in brackets: the target of a CONNECT request."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def host_header(self) -> str:
        """The Host header's value: the port only where it is not the default."""
        if self.port == _DEFAULT_PORTS[self.scheme]:
            return self.authority.rpartition(":")[0]
        return self.authority

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_header}"


@attrs.frozen
class Url:
    """An absolute http(s) URL.

    :ivar origin: scheme, host and port.
    :ivar target: what stands in the request line: path and query, never empty.
    """

    origin: Origin
    target: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take an absolute URL apart.

        :param text: an ``http`` or ``https`` URL (``ws`` and ``wss`` are taken as such).
        :raises ValueError: it is relative, has another scheme, an impossible port, or holds
            a user name; the message quotes the URL without its secrets.
        """
        origin, target = _split(text)
        return cls(origin, target)

    def without_query(self) -> str:
        """The URL for logs and errors: no query, which may hold tokens or file names."""
        return f"{self.origin}{self.target.partition('?')[0]}"

    def __str__(self) -> str:
        return f"{self.origin}{self.target}"


@lru_cache(maxsize=256)
def _split(text: str) -> tuple[Origin, str]:
    try:
        parts = urlsplit(text)
    except ValueError:  # its text would show a password
        raise ValueError("not a valid URL: its host part is malformed") from None
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
    if scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError(f"not an absolute http(s) URL: {shown!r}")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"a URL must not hold a user name or password: {shown!r}")
    if not _HOST.fullmatch(parts.hostname):
        raise ValueError(f"the URL's host is not written in printable ASCII: {shown!r}")
    try:
        port = _DEFAULT_PORTS[scheme] if parts.port is None else parts.port
    except ValueError:
        port = 0
    if not port:
        raise ValueError(f"the URL's port is not between 1 and 65535: {shown!r}")
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    return Origin(scheme, parts.hostname, port), _ascii_target(target)


def _ascii_target(target: str) -> str:
    target = _NOT_ASCII.sub(lambda found: quote(found.group()), target)
    return _UNSAFE_IN_TARGET.sub(lambda found: quote(found.group()), target)


def quote_segment(name: str) -> str:
    """One path segment: everything except letters, digits and ``_.-~`` is percent-encoded.

    :param name: a sandbox or snapshot name; not empty, not ``.`` or ``..`` (which HTTP
        intermediaries would resolve away).
    :raises ValueError: the name cannot be a path segment.
    """
    if not name:
        raise ValueError("the name must not be empty")
    if name in (".", ".."):
        raise ValueError(f"{name!r} cannot be used as a name: it would address another path")
    return quote(name, safe="")


def quote_reference(reference: str) -> str:
    """A snapshot reference as a path segment: like any, but the colon before its tag stays.

    :raises ValueError: it cannot be a path segment.
    """
    return quote_segment(reference).replace("%3A", ":")


def with_query(url: str, params: Mapping[str, str | Iterable[str]]) -> str:
    """Append a form-style query; lists become repeated keys; nothing is added when empty."""
    query = urlencode(
        {key: value if isinstance(value, str) else list(value) for key, value in params.items()},
        doseq=True,
    )
    return f"{url}{'&' if '?' in url else '?'}{query}" if query else url
