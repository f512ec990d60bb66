"""Configuration: where the API is, who asks, and with what patience (protocol/01 sections 3-7)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

import attrs

from .plans.retry import RetryPolicy
from .plans.timeouts import Timeouts
from .wire.http import merge_headers
from .wire.urls import Url

DEFAULT_ENDPOINT = "https://api.smith.langchain.com"
_BASE_SUFFIX = "/v2/sandboxes"
FEATURES = frozenset({"sandbox_sse_exec"})
ExecTransport = Literal["auto", "websocket", "sse", "http"]


def env_value(environ: Mapping[str, str], name: str) -> str | None:
    """The variable ``LANGSMITH_<name>``, else ``LANGCHAIN_<name>``; blank counts as unset."""
    for prefix in ("LANGSMITH_", "LANGCHAIN_"):
        value = environ.get(prefix + name)
        if value is not None and value.strip():
            return value
    return None


def _without_api_suffix(url: str) -> str:
    for suffix in ("/api/v1", "/api"):
        if url.endswith(suffix):
            return url.removesuffix(suffix)
    return url


def default_base(environ: Mapping[str, str]) -> str:
    """The control-plane base URL that the environment names (protocol/01 section 3.1)."""
    endpoint = (env_value(environ, "ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    return f"{_without_api_suffix(endpoint)}/api{_BASE_SUFFIX}"


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float | None:
    value = env_value(environ, name)
    if value is None:
        return default
    try:
        seconds = float(value)
    except ValueError:
        seconds = float("nan")
    if seconds != seconds:
        warnings.warn(
            f"{name} should be a number of seconds, not {value!r}; using {default:g}", stacklevel=4
        )
        return default
    return seconds if 0 < seconds < float("inf") else None


def read_features(environ: Mapping[str, str]) -> frozenset[str]:
    """The experimental features that are switched on (protocol/01 section 5)."""
    enabled: set[str] = set()
    for token in environ.get("LANGSMITH_EXPERIMENTAL_FEATURES", "").split(","):
        name = token.strip().lower().replace("-", "_")
        if not name:
            continue
        if name in FEATURES:
            enabled.add(name)
        elif name.startswith("no") and name.removeprefix("no").lstrip("_") in FEATURES:
            enabled.discard(name.removeprefix("no").lstrip("_"))
        else:
            warnings.warn(f"unknown experimental feature {token.strip()!r}", stacklevel=3)
    return frozenset(enabled)


@attrs.frozen(kw_only=True)
class ExecTimeouts:
    """Patience on exec streams, in seconds; None is no limit.

    :ivar open: for one connection to open: TCP, TLS and upgrade.
    :ivar ping_interval: silence after which a ping is sent.
    :ivar pong: how long a ping may stay unanswered.
    :ivar close: how long to wait for the peer's half of the closing handshake.
    :ivar connect_budget: for the whole phase before the command has started.
    :ivar sse_read: the longest silence on an event stream.
    :ivar grace: how much longer than the command's own limit the client waits for its end.
    :ivar kill: how long a kill may take to be confirmed by the command's exit.
    """

    open: float | None = 30.0
    ping_interval: float | None = 30.0
    pong: float | None = 60.0
    close: float | None = 0.01
    connect_budget: float | None = 120.0
    sse_read: float | None = 60.0
    grace: float | None = 30.0
    kill: float = 5.0

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the ``SANDBOX_WS_TIMEOUT_*`` and ``SANDBOX_SSE_*`` variables."""
        return cls(
            open=_seconds(environ, "SANDBOX_WS_TIMEOUT_OPEN", 30.0),
            ping_interval=_seconds(environ, "SANDBOX_WS_TIMEOUT_PING_INTERVAL", 30.0),
            pong=_seconds(environ, "SANDBOX_WS_TIMEOUT_PING", 60.0),
            close=_seconds(environ, "SANDBOX_WS_TIMEOUT_CLOSE", 0.01),
            connect_budget=_seconds(environ, "SANDBOX_WS_TIMEOUT_CONNECT_BUDGET", 120.0),
            sse_read=_seconds(environ, "SANDBOX_SSE_TIMEOUT_READ", 60.0),
        )


@attrs.frozen(kw_only=True)
class ClientConfig:
    """Everything a flow needs to know about the service and its user.

    :ivar api_endpoint: the control plane's base URL, without a slash at the end.
    :ivar api_key: sent as ``X-Api-Key``, never shown.
    :ivar headers: sent with every request, HTTP and WebSocket alike.
    :ivar timeout: default patience: seconds for connect, read, write and pool, each; or in detail.
    :ivar retry: how requests are repeated.
    :ivar exec_timeouts: patience on exec streams.
    :ivar exec_transport: how commands are spoken to: ``websocket``; ``sse``, an event stream,
        which carries output only; ``http``, one request that waits for the end, a last resort;
        ``auto``: the best that the server knows and the command can do with.
    :ivar features: experimental features switched on.
    """

    api_endpoint: str
    api_key: str | None = attrs.field(default=None, repr=False)
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    timeout: float | Timeouts = attrs.field(default=10.0)
    retry: RetryPolicy = attrs.field(factory=RetryPolicy)
    exec_timeouts: ExecTimeouts = attrs.field(factory=ExecTimeouts)
    exec_transport: ExecTransport = attrs.field(default="auto")
    features: frozenset[str] = frozenset()
    user_agent: str = "sandbox-proto"

    @timeout.validator
    def _check_timeout(self, field: object, value: Any) -> None:
        if isinstance(value, Timeouts):
            return
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
            raise ValueError(f"timeout must be a number of seconds above 0, not {value!r}")

    @exec_transport.validator
    def _check_exec_transport(self, field: object, value: Any) -> None:
        if value not in get_args(ExecTransport):
            allowed = ", ".join(get_args(ExecTransport))
            raise ValueError(f"exec_transport must be one of {allowed}, not {value!r}")

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str],
        *,
        api_endpoint: str | None = None,
        api_key: str | None = None,
        **settings: Any,
    ) -> Self:
        """Arguments first, then the environment, then defaults (protocol/01 sections 3 and 4).

        :param environ: the environment's variables.
        :param api_endpoint: the control plane's base URL; falsy: derived from the environment.
        :param api_key: the API key; falsy: taken from the environment.
        :param settings: further fields of this class.
        :raises ValueError: the endpoint is not an absolute http(s) URL, or a setting is out of
            range.
        """
        base = (api_endpoint or default_base(environ)).rstrip("/")
        Url.parse(base)
        settings.setdefault("exec_timeouts", ExecTimeouts.from_env(environ))
        settings.setdefault("features", read_features(environ))
        return cls(api_endpoint=base, api_key=api_key or env_value(environ, "API_KEY"), **settings)

    @property
    def api_root(self) -> str:
        """The root that the registries client's absolute paths start from (protocol/01 §3.3)."""
        if self.api_endpoint.endswith(_BASE_SUFFIX):
            return _without_api_suffix(self.api_endpoint.removesuffix(_BASE_SUFFIX))
        return self.api_endpoint

    def request_headers(self, *layers: Mapping[str, str] | None) -> dict[str, str]:
        """The headers of one request: defaults, key, client-wide headers, then `layers`.

        :raises ValueError: a header cannot travel; the message names it.
        """
        key = {"x-api-key": self.api_key} if self.api_key else None
        defaults = {"accept": "*/*", "user-agent": self.user_agent}
        return merge_headers(defaults, key, self.headers, *layers)
