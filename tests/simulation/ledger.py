"""What must always be so, and how often it was looked at."""

from __future__ import annotations

from collections import Counter

import attrs


@attrs.define
class Ledger:
    """Checks by kind, and what was found to be wrong.

    :ivar excused: what was not as one would wish, and need not be, because of the faults.
    """

    checked: Counter[str] = attrs.field(factory=Counter)
    excused: Counter[str] = attrs.field(factory=Counter)
    deeds: Counter[str] = attrs.field(factory=Counter)
    wrong: list[str] = attrs.field(factory=list)

    def check(self, kind: str, holds: bool, text: str) -> None:
        """Something that must be so, whatever happens."""
        self.checked[kind] += 1
        if not holds:
            self.wrong.append(f"{kind}: {text}")

    def check_unless(self, excuse: bool, kind: str, holds: bool, text: str) -> None:
        """Something that must be so, unless there is an excuse."""
        if excuse and not holds:
            self.excused[kind] += 1
        else:
            self.check(kind, holds, text)
