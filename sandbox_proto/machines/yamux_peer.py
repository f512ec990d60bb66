"""Which stream ids a peer has used."""

from __future__ import annotations

# Peers that open streams in parallel may send their openings out of order, but not by more.
_MAX_SKIPPED = 1024


class PeerIds:
    """The ids of one side, each of which is used once; they need not come in order."""

    def __init__(self, first: int) -> None:
        """
        :param first: the first of them: 1 for a client, 2 for a server.
        """
        self._parity = first % 2
        self._next = first  # above all that were taken
        self._skipped: set[int] = set()

    def are_like(self, id: int) -> bool:
        """Whether an id is one of this side's."""
        return id % 2 == self._parity

    def was_taken(self, id: int) -> bool:
        """Whether a stream of this id, which is one of this side's, was opened."""
        return id < self._next and id not in self._skipped

    def take(self, id: int) -> bool:
        """A stream is opened. Returns whether its id was free for that."""
        if not self.are_like(id):
            return False
        if id < self._next:
            if id not in self._skipped:
                return False
            self._skipped.remove(id)
            return True
        if (id - self._next) // 2 + len(self._skipped) > _MAX_SKIPPED:
            return False
        self._skipped.update(range(self._next, id, 2))
        self._next = id + 2
        return True
