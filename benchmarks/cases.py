"""All cases, in the order in which they run."""

from __future__ import annotations

from . import cases_commands, cases_import, cases_requests, cases_tunnel
from .measuring import Case

CASES: tuple[Case, ...] = (
    *cases_requests.CASES,
    *cases_commands.CASES,
    *cases_tunnel.CASES,
    *cases_import.CASES,
)
