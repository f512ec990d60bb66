"""Recording what a client does, into a file: ``AsyncSandboxClient(record="session.jsonl")``."""

from __future__ import annotations

import atexit
import io
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import attrs

from sandbox_proto.config import ClientConfig
from sandbox_proto.faults import Fault
from sandbox_proto.machines.base import Buffer
from sandbox_proto.plans.route import Route
from sandbox_proto.trace.chance import Chance
from sandbox_proto.trace.recorder import Recorder
from sandbox_proto.trace.redaction import Redactor

from .network import (
    READ_BYTES,
    ByteStream,
    ConnectFailed,
    Event,
    Interruptible,
    Network,
    Shield,
)

VARIABLE = "SANDBOX_RECORD"
# What goes with it: regular expressions and names of headers, one a line, and a switch.
REDACT_VARIABLE = "SANDBOX_RECORD_REDACT"
HEADERS_VARIABLE = "SANDBOX_RECORD_REDACT_HEADERS"
BESIDE_VARIABLE = "SANDBOX_RECORD_BESIDE"
_SEED_BYTES = 16


@attrs.frozen(kw_only=True)
class Recording:
    """Where and how to record.

    :ivar path: the file; it is replaced. JSON Lines, see ``sandbox_proto/trace/FORMAT.md``.
    :ivar redact: regular expressions of what else is secret: the first group of each, or else
        the whole match, is masked.
    :ivar redact_headers: names of further headers whose values are secret. API keys, tokens,
        cookies, signed URLs and the client's own `headers` always are.
    :ivar beside: whether bodies of more than 16 KiB go into files of their own, in a directory
        beside the trace (its name and ``.d``), named by their SHA-256.
    """

    path: Path = attrs.field(converter=Path)
    redact: Iterable[str] = ()
    redact_headers: Iterable[str] = ()
    beside: bool = False

    @classmethod
    def from_env(cls, environment: Mapping[str, str]) -> Recording:
        """What ``SANDBOX_RECORD`` asks for, and the variables that go with it.

        Each client of a program, and each of its processes, gets a file of its own.

        :raises OSError: the file cannot be written.
        """
        return cls(
            path=_claimed(Path(environment[VARIABLE])),
            redact=_lines(environment, REDACT_VARIABLE),
            redact_headers=_lines(environment, HEADERS_VARIABLE),
            beside=environment.get(BESIDE_VARIABLE, "") not in ("", "0"),
        )


def _lines(environment: Mapping[str, str], name: str) -> list[str]:
    return [line for line in environment.get(name, "").split("\n") if line]


def _claimed(path: Path) -> Path:
    """This path, or with a number: a new file, which nobody else gets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name, number = path, 1
    while True:
        try:
            name.touch(exist_ok=False)
        except FileExistsError:
            number += 1
            name = path.with_name(f"{path.stem}-{number}{path.suffix}")
        else:
            return name


def record_network(
    network: Network, record: str | os.PathLike[str] | Recording | None, config: ClientConfig
) -> RecordedNetwork:
    """A network that is written down.

    :param record: where to; None: as the variable ``SANDBOX_RECORD`` says.
    :raises OSError: the file cannot be written.
    """
    if record is None:
        record = Recording.from_env(os.environ)
    recording = record if isinstance(record, Recording) else Recording(path=Path(record))
    return RecordedNetwork(network, recording, config)


class TraceFile:
    """A file that a recorder writes to.

    :raises OSError: it cannot be written.
    """

    def __init__(self, path: Path, *, beside: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: io.TextIOWrapper = path.open("w", encoding="utf-8")
        self._directory = path.with_name(path.name + ".d") if beside else None

    def write(self, text: str) -> None:
        """See `Sink`."""
        self._file.write(text)

    def keep(self, name: str, content: bytes) -> bool:
        """See `Sink`."""
        if self._directory is None:
            return False
        self._directory.mkdir(exist_ok=True)
        (self._directory / name).write_bytes(content)
        return True

    def close(self) -> None:
        """Idempotent."""
        self._file.close()


class RecordedNetwork:
    """A network whose clock begins at 0, and whose connections are written down."""

    def __init__(self, network: Network, recording: Recording, config: ClientConfig) -> None:
        self._network = network
        self._epoch: float | None = None
        redactor = Redactor(
            secrets=[config.api_key or ""],
            headers=[*recording.redact_headers, *config.headers],
            patterns=recording.redact,
        )
        self._file = TraceFile(recording.path, beside=recording.beside)
        self.recorder = Recorder(self._file, redactor, config)
        atexit.register(self.finish)  # a client that is never closed has a trace, too

    def finish(self) -> None:
        """Write what is left, and close the file. Idempotent."""
        atexit.unregister(self.finish)
        self.recorder.close()
        self._file.close()

    def chance(self) -> Chance:
        """Chance for one flow, which the trace can tell again."""
        return Chance(self._network.entropy(_SEED_BYTES).hex())

    # --- the network, on a clock of its own -------------------------------------------

    def now(self) -> float:
        now = self._network.now()
        if self._epoch is None:
            self._epoch = now
        return round(now - self._epoch, 6)

    def _outer(self, when: float | None) -> float | None:
        if when is None:
            return None
        self.now()
        assert self._epoch is not None
        # Half of what rounding may take away: who wakes is not to find that it is not yet time.
        return when + self._epoch + 5e-7

    def wall_clock(self) -> float:
        return self._network.wall_clock()

    def entropy(self, count: int) -> bytes:
        return self._network.entropy(count)

    async def sleep_until(self, when: float) -> None:
        outer = self._outer(when)
        assert outer is not None
        await self._network.sleep_until(outer)

    async def connect(self, route: Route, *, until: float | None) -> ByteStream:
        began = self.now()
        fault: Fault | None = None
        try:
            stream = await self._network.connect(route, until=self._outer(until))
        except ConnectFailed as failure:
            fault = failure.fault
            raise
        finally:
            self.recorder.connecting(route.origin, began, self.now(), fault)
        return _Stream(stream, self)

    def event(self) -> Event:
        return _Event(self._network.event(), self)

    def mutex(self) -> AbstractContextManager[object]:
        return self._network.mutex()

    def interruptible(self) -> AbstractContextManager[Interruptible]:
        return self._network.interruptible()

    def shielded(self, seconds: float) -> AbstractContextManager[Shield]:
        return self._network.shielded(seconds)


@attrs.frozen(eq=False)
class _Event:
    _event: Event
    _clock: RecordedNetwork

    def set(self) -> None:
        self._event.set()

    async def wait(self, until: float | None = None) -> None:
        await self._event.wait(self._clock._outer(until))


@attrs.frozen(eq=False)
class _Stream:
    """A stream whose deadlines are on the recorded clock."""

    _stream: ByteStream
    _clock: RecordedNetwork

    def try_send(self, data: Buffer) -> int:
        return self._stream.try_send(data)

    def try_flush(self) -> bool:
        return self._stream.try_flush()

    def try_receive(self, max_bytes: int = READ_BYTES) -> bytes | None:
        return self._stream.try_receive(max_bytes)

    def try_receive_into(self, buffer: memoryview) -> int | None:
        return self._stream.try_receive_into(buffer)

    async def wait(self, *, readable: bool, writable: bool, until: float | None) -> None:
        await self._stream.wait(
            readable=readable, writable=writable, until=self._clock._outer(until)
        )

    def interrupt(self) -> None:
        self._stream.interrupt()

    def send_eof(self) -> None:
        self._stream.send_eof()

    def close(self) -> None:
        self._stream.close()
