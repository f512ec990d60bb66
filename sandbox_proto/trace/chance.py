"""Chance that a few bytes can tell again."""

from __future__ import annotations

import hashlib

import attrs

_WORD = 32


@attrs.define
class Chance:
    """Unpredictable to whoever does not know the seed, and the same for whoever does.

    It is both things that the core is given: call it for bytes, or ask it for a `random`
    number. Drawing moves `drawn` on, so the object as it is at any moment says what follows.

    :ivar seed: hexadecimal.
    :ivar drawn: how many words were drawn.
    """

    seed: str
    drawn: int = 0

    def _word(self) -> bytes:
        self.drawn += 1
        word = f"{self.seed}:{self.drawn}".encode()
        return hashlib.blake2b(word, digest_size=_WORD).digest()

    def __call__(self, count: int) -> bytes:
        """`count` bytes."""
        words = -(-count // _WORD)
        return b"".join(self._word() for _ in range(words))[:count]

    def random(self) -> float:
        """A number in [0, 1)."""
        return (int.from_bytes(self._word()[:8]) >> 11) / (1 << 53)
