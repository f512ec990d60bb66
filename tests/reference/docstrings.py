"""Docstrings taken apart: text, and fields such as ``:param name: what``."""

from __future__ import annotations

import inspect
import re

import attrs

_FIELD = re.compile(r":(param|ivar|returns?|raises)(?: +([\w., `]+?))?: *(.*)")


@attrs.define
class Docstring:
    """What a docstring says.

    :ivar fields: kind (``param``, ``ivar``, ``returns``, ``raises``) -> names and texts.
    """

    text: str = ""
    fields: dict[str, list[tuple[str, str]]] = attrs.field(factory=dict)

    @property
    def summary(self) -> str:
        """Its first paragraph, in one line."""
        return " ".join(self.text.partition("\n\n")[0].split())


def parse(raw: str | None) -> Docstring:
    """Take a docstring apart. Text between fields and after them stays text."""
    found, text = Docstring(), []
    field: list[str] | None = None
    for line in inspect.cleandoc(raw or "").splitlines():
        if match := _FIELD.fullmatch(line):
            kind = {"return": "returns"}.get(match[1], match[1])
            field = [kind, match[2] or "", match[3]]
            found.fields.setdefault(kind, []).append((field[1], field[2]))
        elif field is not None and line.startswith("    "):
            name, said = found.fields[field[0]][-1]
            found.fields[field[0]][-1] = (name, f"{said} {line.strip()}".strip())
        else:
            field = None
            text.append(line)
    found.text = "\n".join(text).strip()
    return found
