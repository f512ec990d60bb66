"""What a registry wants to see before it hands out an image."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Final

import attrs

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME: Final = re.compile(rf"\s*({_TOKEN})(?:\s+|(?=,)|$)(?!=)")
_PARAMETER: Final = re.compile(rf'[\s,]*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')


@attrs.frozen
class Credentials:
    """A user of a registry; the password may be an access token."""

    username: str
    password: str = attrs.field(repr=False)

    def basic(self) -> str:
        """The value of an ``Authorization`` header."""
        text = f"{self.username}:{self.password}"
        return "Basic " + base64.b64encode(text.encode()).decode()


@attrs.frozen
class Challenge:
    """One way to be let in.

    :ivar scheme: in lower case: ``bearer`` or ``basic``.
    :ivar parameters: by name in lower case.
    """

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> Iterator[Challenge]:
    """Take a ``WWW-Authenticate`` header apart; what cannot be read ends it."""
    position = 0
    while match := _SCHEME.match(header, position):
        position = match.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(header, position):
            quoted, plain = parameter[2], parameter[3]
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            parameters.setdefault(parameter[1].lower(), value)
            position = parameter.end()
        yield Challenge(match[1].lower(), parameters)
        while position < len(header) and header[position] in ", \t":
            position += 1
