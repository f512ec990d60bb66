"""Which trace a test has, and whether it is recorded or replayed."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import attrs
import pytest

from ..recording import Recording

MARKER = "sandbox_trace"
_UNSAFE = re.compile(r"[^\w.,=+@\[\]-]+")
_MAX_NAME = 120

# This one is known to be of no use to its test.
RECORD_ANEW = pytest.StashKey[bool]()


@attrs.frozen
class ItemTrace:
    """The trace of one test.

    :ivar path: the file.
    :ivar records: whether it is written in this run; else it is played.
    :ivar command: how to record it.
    """

    path: Path
    records: bool
    command: str
    strict: bool
    redact: tuple[str, ...]
    redact_headers: tuple[str, ...]
    beside: bool

    @property
    def _draft(self) -> Path:
        """Where it is recorded, until it is known that the test passes."""
        return self.path.with_name(f".{self.path.name}.draft")

    @property
    def failed(self) -> Path:
        """Where the recording of a test goes that fails."""
        return self.path.with_name(f"{self.path.name}.failed")

    def settings(self) -> dict[str, Any]:
        """Arguments for the client.

        :raises pytest.fail.Exception: there is nothing to play.
        """
        if self.records:
            recording = Recording(
                path=self._draft,
                redact=self.redact,
                redact_headers=self.redact_headers,
                beside=self.beside,
            )
            return {"record": recording}
        if not self.path.exists():
            pytest.fail(
                f"there is no trace {self.path}\nrecord it with: {self.command}", pytrace=False
            )
        from ..replaying import Replay

        return {"replay": Replay(path=self.path, strict=self.strict)}

    def settle(self, *, keep: bool) -> Path | None:
        """The recording is over; returns where it went, if there is one.

        :param keep: it becomes the test's trace, in place of the one before; else it is put
            beside it, to be looked at.
        """
        if not (self.records and self._draft.exists()):
            return None
        target = self.path if keep else self.failed
        for path in [target, self.failed]:
            path.unlink(missing_ok=True)
            shutil.rmtree(_beside(path), ignore_errors=True)
        self._draft.replace(target)
        if _beside(self._draft).exists():
            _beside(self._draft).replace(_beside(target))
        return target


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".d")


def trace_of(item: pytest.Item, mode: str) -> ItemTrace | None:
    """The trace of a test that is marked with `sandbox_trace`, else None.

    :raises pytest.fail.Exception: the marker's arguments are wrong.
    """
    marker = item.get_closest_marker(MARKER)
    if marker is None:
        return None
    options = _options(*marker.args, **marker.kwargs)
    path = _path(item, options["name"])
    nodeid = f"'{item.nodeid}'" if "[" in item.nodeid else item.nodeid
    records = mode == "all" or (mode != "none" and not path.exists())
    config = item.config
    return ItemTrace(
        path,
        records or item.stash.get(RECORD_ANEW, False),
        f"pytest {nodeid} --sandbox-record-mode={'all' if path.exists() else 'once'}",
        options["strict"],
        (*config.getini("sandbox_trace_redact"), *options["redact"]),
        (*config.getini("sandbox_trace_redact_headers"), *options["redact_headers"]),
        options["beside"],
    )


def _options(*args: Any, **kwargs: Any) -> dict[str, Any]:
    def signature(
        name: str | None = None,
        *,
        redact: tuple[str, ...] = (),
        redact_headers: tuple[str, ...] = (),
        beside: bool = False,
        strict: bool = True,
    ) -> dict[str, Any]:
        return dict(locals())

    complaint = ""
    try:
        options = signature(*args, **kwargs)
    except TypeError as error:
        complaint = str(error).partition("() ")[2] or str(error)
    if complaint:
        pytest.fail(f"@pytest.mark.sandbox_trace: {complaint}", pytrace=False)
    for name in ("redact", "redact_headers"):
        if isinstance(options[name], str):
            options[name] = (options[name],)
    return options


def _path(item: pytest.Item, name: str | None) -> Path:
    directory: Path = item.path.parent / item.config.getini("sandbox_trace_dir")
    if name is not None:
        return directory / name
    test = _without_backend(item)
    if isinstance(parent := item.parent, pytest.Class):
        test = f"{parent.name}.{test}"
    safe = _UNSAFE.sub("-", test)
    if safe != test or len(safe) > _MAX_NAME:
        digest = hashlib.sha256(test.encode()).hexdigest()[:8]
        safe = f"{safe[:_MAX_NAME]}-{digest}"
    return directory / item.path.stem / f"{safe}.jsonl"


def _without_backend(item: pytest.Item) -> str:
    """The test's name without the loop that it runs on: all loops have one trace."""
    callspec = getattr(item, "callspec", None)
    backend = None if callspec is None else callspec.params.get("anyio_backend")
    if callspec is None or backend is None:
        return item.name
    wanted = backend if isinstance(backend, str) else backend[0]
    kept = callspec.id.split("-")
    for part in kept:
        if part.partition("+")[0] == wanted:
            kept.remove(part)
            break
    name = item.name.removesuffix(f"[{callspec.id}]")
    return f"{name}[{'-'.join(kept)}]" if kept else name
