"""Patience with one attempt of one request, as data."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Self

import attrs


def _positive_or_none(instance: object, field: attrs.Attribute[Any], value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
        raise ValueError(f"{field.name} must be a number of seconds above 0 or None, not {value!r}")


@attrs.frozen(kw_only=True)
class Timeouts:
    """Patience with one attempt of one request, in seconds, above 0; None is no limit.

    :ivar connect: TCP, TLS and proxy together.
    :ivar read: for the answer's head, and for each next piece of its body.
    :ivar write: how long the peer may take no more of the request.
    :ivar pool: how long to wait for a free connection.
    :ivar total: from the first byte sent to the last received.
    """

    connect: float | None = attrs.field(default=10.0, validator=_positive_or_none)
    read: float | None = attrs.field(default=10.0, validator=_positive_or_none)
    write: float | None = attrs.field(default=10.0, validator=_positive_or_none)
    pool: float | None = attrs.field(default=10.0, validator=_positive_or_none)
    total: float | None = attrs.field(default=None, validator=_positive_or_none)

    @classmethod
    def uniform(cls, seconds: float, *, read: float | None = None) -> Self:
        """The vendor's rule: one number, applied to each phase by itself.

        Small answers also get a total (one `write` and two `read`), so that a dripping peer
        cannot stretch them for ever.
        """
        read = seconds if read is None else read
        return cls(
            connect=seconds, read=read, write=seconds, pool=seconds, total=seconds + 2 * read
        )

    @classmethod
    def of(cls, timeout: float | Timeouts) -> Timeouts:
        """A number of seconds for each phase, or patience in detail."""
        return timeout if isinstance(timeout, Timeouts) else _uniform(timeout)


@lru_cache(maxsize=16)
def _uniform(seconds: float) -> Timeouts:
    return Timeouts.uniform(seconds)
