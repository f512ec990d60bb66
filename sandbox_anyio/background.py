"""Helper tasks beside a block whose own errors come out as they are."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import anyio
from anyio.abc import TaskGroup


@contextlib.asynccontextmanager
async def background_tasks() -> AsyncIterator[TaskGroup]:
    """A task group whose tasks are cancelled at the block's end.

    A plain task group would wrap the block's exception into a group, although that there is
    one is nobody's business outside.
    """
    body_error: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            try:
                yield tasks
            except BaseException as error:
                body_error = error
                raise
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if body_error is None or group.exceptions != (body_error,):
            raise
    else:
        return
    raise body_error
