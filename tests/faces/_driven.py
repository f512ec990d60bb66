"""Asynchronous objects in the dress of blocking ones, so that one test body serves all faces.

Every call becomes a task of a loop that runs in a thread of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import anyio
from anyio.from_thread import BlockingPortal

from sandbox_anyio import TunnelStream

# Names that only the asynchronous things have.
_NAMES = {"close": "aclose", "iter_bytes": "aiter_bytes"}
_PROTOCOLS = ("__aenter__", "__aiter__")


class Driven:
    """An asynchronous object whose calls are waited for."""

    def __init__(self, thing: Any, portal: BlockingPortal) -> None:
        self._thing, self._portal = thing, portal
        self._block: AbstractContextManager[Any] | None = None
        self._pieces: AsyncIterator[Any] | None = None

    def __getattr__(self, name: str) -> Any:
        if not hasattr(type(self._thing), name) and name not in vars_of(self._thing):
            name = _NAMES.get(name, name)
        if callable(value := getattr(self._thing, name)):
            return lambda *args, **options: self._portal.call(
                self._call, value, [unwrapped(each) for each in args], options
            )
        return self._portal.call(self._settled, value)

    def __eq__(self, other: object) -> bool:
        return bool(self._thing == unwrapped(other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._thing)

    async def _call(self, function: Any, args: list[Any], options: dict[str, Any]) -> Any:
        options = {name: unwrapped(value) for name, value in options.items()}
        return await self._settled(function(*args, **options))

    async def _settled(self, value: Any) -> Any:
        return self._wrapped(await value if inspect.isawaitable(value) else value)

    def _wrapped(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._wrapped(each) for each in value]
        if isinstance(value, TunnelStream):
            return DrivenStream(value, self._portal)
        return Driven(value, self._portal) if _is_asynchronous(type(value)) else value

    def __enter__(self) -> Any:
        self._block = self._portal.wrap_async_context_manager(self._thing)
        entered = self._block.__enter__()
        return self if entered is self._thing else self._wrapped(entered)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._block is not None
        return self._block.__exit__(exc_type, exc, traceback)

    def __iter__(self) -> Iterator[Any]:
        pieces = self._portal.call(aiter, self._thing)
        while True:
            try:
                yield self._wrapped(self._portal.call(_next_of, pieces))
            except StopAsyncIteration:
                return


class DrivenStream(Driven):
    """A byte stream whose end is empty bytes."""

    def receive(self) -> bytes:
        try:
            data: bytes = self._portal.call(self._thing.receive)
        except anyio.EndOfStream:
            return b""
        return data


def _is_asynchronous(kind: type) -> bool:
    """Whether anything of it has to be awaited."""
    return any(
        inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) or name in _PROTOCOLS
        for base in kind.__mro__
        for name, each in vars(base).items()
    )


async def _next_of(pieces: AsyncIterator[Any]) -> Any:
    return await anext(pieces)


def vars_of(thing: Any) -> dict[str, Any]:
    """Its own attributes, if it has a place for any."""
    return getattr(thing, "__dict__", {})


def unwrapped(thing: Any) -> Any:
    """What is driven."""
    return thing._thing if isinstance(thing, Driven) else thing
