"""A pipe that a thread writes into, for those who read elsewhere what is made here."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import BinaryIO

import anyio.to_thread

from ...background import background_tasks

Writer = Callable[[BinaryIO], None]


@contextlib.asynccontextmanager
async def fed(write: Writer) -> AsyncIterator[int]:
    """The read end of a pipe into which `write` writes, in a thread of its own.

    When the block ends the pipe is closed, which ends the writer too. If the writer failed,
    then that is raised rather than what its reader made of the torn stream.

    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    failure: Exception | None = None
    begun = False

    def run() -> None:
        nonlocal failure
        try:
            with open(writing, "wb") as pipe:  # noqa: PTH123
                write(pipe)
        except BrokenPipeError:
            pass  # nobody wants the rest
        except Exception as error:  # raised where it is waited for
            failure = error

    async def run_in_own_thread() -> None:
        nonlocal begun
        begun = True
        # A limiter of its own: it may take long, and must not keep others waiting, nor wait
        # itself. It is not cancelled, but ends as soon as nobody reads.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(run, limiter=anyio.CapacityLimiter(1))

    try:
        async with background_tasks() as tasks:
            tasks.start_soon(run_in_own_thread)
            try:
                yield reading
            finally:
                os.close(reading)
    except Exception:
        if failure is not None:
            raise failure from None
        raise
    finally:
        if not begun:
            os.close(writing)
    if failure is not None:
        raise failure
