"""Where in a test something was made."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

_ROOTS = [str(Path(__file__).parents[2] / name) for name in ("sandbox_anyio", "sandbox_proto")]
_ROOTS += [str(Path(__file__).parents[2] / "sandbox_trio_compat")]
_ROOTS += [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
_FOREIGN = tuple(f"{root.rstrip('/')}/" for root in _ROOTS)


def place(root: Path, thread: int | None) -> str:
    """The innermost line that is neither ours nor a library's, for messages.

    :param root: what paths are shown relative to.
    :param thread: where else to look: who calls the synchronous client waits in its thread, and
        a test's tasks have their own beginnings.
    """
    for frame in _frames(thread):
        name = frame.f_code.co_filename
        if _is_foreign(name):
            continue
        path = Path(name)
        shown = path.relative_to(root) if path.is_relative_to(root) else path
        return f"{shown}:{frame.f_lineno} in {frame.f_code.co_name}"
    return ""


def _frames(thread: int | None) -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
    frame = None if thread is None else sys._current_frames().get(thread)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_foreign(name: str) -> bool:
    return name.startswith(_FOREIGN) or name.startswith("<") or "site-packages" in name
