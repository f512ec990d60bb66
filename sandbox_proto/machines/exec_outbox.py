"""What is to be said to a command, and what of it is known to have arrived.

Input waits until the server has the command: sent with the opening, nobody would know what
became of it if that was lost. What was sent is in doubt until the server has received it.
"""

from __future__ import annotations

from ..wire.exec_messages import ClientMessage, CloseStdin, Input, Kill
from .exec_link import Link

# Characters of input in one message: servers take messages of so much, whatever is escaped.
_INPUT_PIECE = 64 * 1024


def input_messages(data: str) -> list[ClientMessage]:
    """Input as messages of a size that every server takes."""
    return [
        Input(data[start : start + _INPUT_PIECE]) for start in range(0, len(data), _INPUT_PIECE)
    ]


class Outbox:
    """See the module's text.

    :ivar kill_asked: the command is to be killed; nothing else is worth saying.
    """

    def __init__(self) -> None:
        self.kill_asked = False
        self._kept: list[ClientMessage] = []
        self._on_its_way = False
        self._close_asked = False

    @property
    def settled(self) -> bool:
        """Whether all that was to be said is known to have arrived."""
        return not self._kept and not self._on_its_way

    @property
    def input_on_its_way(self) -> bool:
        """Whether input was sent that is not known to have arrived."""
        return self._on_its_way

    def keep(self, message: ClientMessage) -> None:
        """To be said when it is time."""
        self._kept.append(message)

    def note_close(self) -> None:
        """Standard input is to be closed, however often that has to be said."""
        self._close_asked = True

    def clear(self) -> None:
        """There is nobody to say anything to."""
        self._kept.clear()

    def send(self, link: Link, message: ClientMessage, now: float) -> None:
        """Say something at once."""
        link.send(message, now=now)
        self._on_its_way = self._on_its_way or isinstance(message, Input)

    def send_kill(self, link: Link, now: float) -> None:
        """With the opening goes only a kill."""
        if self.kill_asked:
            self._kept.clear()
            link.send(Kill(), now=now)

    def send_kept(self, link: Link, now: float) -> None:
        """The server has the command: say what was kept."""
        kept, self._kept = self._kept, []
        for message in kept:
            self.send(link, message, now)

    def arrived(self) -> None:
        """The server has received all that was sent."""
        self._on_its_way = False

    def link_lost(self) -> bool:
        """The connection is gone. Returns whether input is in doubt that still matters."""
        doubt, self._on_its_way = self._on_its_way, False
        if self.kill_asked:
            return False
        if self._close_asked and CloseStdin() not in self._kept:
            self._kept.append(CloseStdin())  # it may be lost, and the command would read for ever
        return doubt
