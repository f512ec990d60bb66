"""Moments as servers write them: RFC 3339 and HTTP dates. No clock of ours is involved."""

from __future__ import annotations

from datetime import UTC, datetime

# `Date` and `created_at` are cut to whole seconds, and may come from two machines.
CLOCK_TOLERANCE = 2.0


def parse_timestamp(text: str | None) -> float | None:
    """An ISO 8601 timestamp as seconds since the epoch; without an offset, UTC is meant."""
    try:
        return _in_utc(datetime.fromisoformat(text or ""))
    except (ValueError, OverflowError):
        return None


def parse_http_date(text: str | None) -> float | None:
    """An HTTP date as seconds since the epoch."""
    # Needed only after a refusal or by a host, and slow to load.
    from email.utils import parsedate_to_datetime

    try:
        return _in_utc(parsedate_to_datetime(text or ""))
    except (ValueError, TypeError, OverflowError):
        return None


def _in_utc(moment: datetime) -> float:
    # Without a zone, `timestamp` would ask this machine for its own.
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def server_age(created_at: str | None, answered_at: str | None) -> float | None:
    """How old something was when the server answered, both told by the server, in seconds.

    :param created_at: the thing's timestamp.
    :param answered_at: the answer's ``Date`` header.
    """
    created, answered = parse_timestamp(created_at), parse_http_date(answered_at)
    return None if created is None or answered is None else answered - created
