"""How to reach an origin: directly, or through a proxy (CONNECT, for all schemes alike)."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

import attrs

from ..wire.urls import Origin

_PROXY_SCHEMES = {"http": 80, "https": 443}


@attrs.frozen
class Proxy:
    """An HTTP proxy.

    :ivar origin: where it listens; ``https`` means TLS to the proxy itself.
    :ivar authorization: the value of ``Proxy-Authorization``, or None.
    """

    origin: Origin
    authorization: str | None = attrs.field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> Proxy:
        """From ``http://[user:password@]host[:port]``; without a scheme, http is meant.

        :raises ValueError: another scheme or no host; the message shows no password.
        """
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
        except ValueError:  # its text would show the password
            raise ValueError("a proxy's URL is malformed in its host part") from None
        if parts.scheme not in _PROXY_SCHEMES or not parts.hostname:
            shown = f"{parts.scheme}://{parts.hostname or ''}"
            raise ValueError(f"a proxy must be an http(s) URL with a host, not {shown!r}")
        origin = Origin(parts.scheme, parts.hostname, parts.port or _PROXY_SCHEMES[parts.scheme])
        if parts.username is None:
            return cls(origin)
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return cls(origin, "Basic " + base64.b64encode(credentials.encode()).decode())


@attrs.frozen
class Route:
    """How to reach `origin`."""

    origin: Origin
    proxy: Proxy | None = None


@attrs.frozen
class RoutePlan:
    """Chooses routes.

    :ivar proxies: scheme (``http``, ``https``) -> proxy.
    :ivar bypass: hosts reached directly, as in ``NO_PROXY``.
    """

    proxies: Mapping[str, Proxy] = attrs.field(factory=dict)
    bypass: tuple[str, ...] = ()

    @classmethod
    def through(cls, proxy: str | None) -> RoutePlan:
        """One proxy for everything, or none at all.

        :raises ValueError: the URL is not a proxy's.
        """
        if proxy is None:
            return cls()
        chosen = Proxy.parse(proxy)
        return cls({"http": chosen, "https": chosen})

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> RoutePlan:
        """``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``, in either case.

        :raises ValueError: a variable holds no proxy URL; the message names it.
        """
        proxies: dict[str, Proxy] = {}
        for scheme in ("http", "https"):
            for name in (f"{scheme}_proxy", "all_proxy"):
                if value := _either_case(environ, name):
                    try:
                        proxies[scheme] = Proxy.parse(value)
                    except ValueError as error:
                        raise ValueError(f"{name.upper()}: {error}") from None
                    break
        bypass = (_either_case(environ, "no_proxy") or "").lower().split(",")
        return cls(proxies, tuple(host.strip() for host in bypass if host.strip()))

    def route_to(self, origin: Origin) -> Route:
        """The route to an origin."""
        proxy = self.proxies.get(origin.scheme)
        if proxy is not None and any(_matches(origin, entry) for entry in self.bypass):
            proxy = None
        return Route(origin, proxy)


def _either_case(environ: Mapping[str, str], name: str) -> str | None:
    # Under CGI, HTTP_PROXY is a request header of whoever asks, hence not to be believed.
    upper = name.upper()
    if upper == "HTTP_PROXY" and "REQUEST_METHOD" in environ:
        return environ.get(name) or None
    return environ.get(name) or environ.get(upper) or None


def _matches(origin: Origin, entry: str) -> bool:
    """Whether a ``NO_PROXY`` entry covers an origin: ``*``, host, suffix, address, network."""
    if entry == "*":
        return True
    host = origin.host.lower()
    if "/" in entry:
        try:
            return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, port = entry, ""
    if entry.startswith("["):
        name, _, port = entry[1:].partition("]")
        port = port.removeprefix(":")
    elif entry.count(":") == 1:
        name, _, port = entry.partition(":")
    if port and port != str(origin.port):
        return False
    name = name.removeprefix("*").lstrip(".")
    return host == name or host.endswith(f".{name}")
