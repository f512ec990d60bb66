"""What becomes of the asynchronous classes: which methods, in what words, with what in between."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap

import attrs

_DOC_WIDTH = 92


@attrs.frozen
class Unit:
    """A class to make methods of.

    :ivar source: the module that it is in.
    :ivar name: its name there.
    :ivar made: the name of the class of methods here.
    :ivar face: the public class, for which it is made.
    :ivar base: what the methods stand on.
    :ivar only: make just these; else all public ones that are not in `without`, and are no
        class methods.
    :ivar renamed: methods that have other names here.
    :ivar attrs: whether it is a class of fields.
    :ivar documented_in: where the docstring with the constructor's parameters is.
    """

    source: str
    name: str
    made: str
    face: str
    base: str
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    renamed: dict[str, str] = attrs.field(factory=dict)
    attrs: bool = False
    documented_in: str = ""

    def wants(self, method: str) -> bool:
        """Whether this method is made."""
        if self.only:
            return method in self.only
        return not method.startswith("_") and method not in self.without

    def parameters(self, tree: ast.Module) -> list[str]:
        """The lines that describe the constructor's parameters."""
        text = next(
            ast.get_docstring(each, clean=False) or ""
            for each in tree.body
            if isinstance(each, ast.ClassDef) and each.name == f"Async{self.face}"
        )
        fields = inspect.cleandoc(text[text.index(":param") :]).split("\n:")
        return [
            line
            for field in fields
            for line in textwrap.wrap(
                f":{field.removeprefix(':')}", _DOC_WIDTH, subsequent_indent="    "
            )
        ]


@attrs.frozen
class Result:
    """What a method returns here.

    :ivar annotation: its type.
    :ivar convert: the method that makes it of what the asynchronous method returns.
    :ivar helper: how that one is called.
    :ivar imports: what the type needs of this package.
    :ivar needs: what it needs of elsewhere.
    :ivar awaited: it is awaited, although the method is no coroutine function.
    """

    annotation: str
    convert: str | None = None
    helper: str = "_call"
    imports: frozenset[tuple[str, str]] = frozenset()
    needs: frozenset[str] = frozenset()
    awaited: bool = False


@attrs.frozen
class Parameter:
    """A parameter that is passed on as something else.

    :ivar annotation: its type here.
    :ivar wrap: the function that makes it what the asynchronous method takes.
    :ivar ours: whether the type is one of this package.
    """

    annotation: str
    wrap: str
    ours: bool = False
    needs: frozenset[str] = frozenset()


_CLIENT, _SANDBOX = "BlockingClient", "BlockingSandbox"


def _sandbox_unit(source: str, name: str, **more: tuple[str, ...]) -> Unit:
    made = "LifecycleMethods" if name == "AsyncSandbox" else name
    return Unit(source, name, made, "Sandbox", _SANDBOX, attrs=True, **more)  # type: ignore[arg-type]


UNITS = (
    Unit(
        "base.py",
        "ClientBase",
        "Construction",
        "SandboxClient",
        _CLIENT,
        only=("__init__",),
        documented_in="client.py",
    ),
    Unit("client_sandboxes.py", "SandboxMethods", "SandboxMethods", "SandboxClient", _CLIENT),
    Unit("client_snapshots.py", "SnapshotMethods", "SnapshotMethods", "SandboxClient", _CLIENT),
    Unit("client_services.py", "ServiceMethods", "ServiceMethods", "SandboxClient", _CLIENT),
    Unit(
        "registries.py",
        "AsyncRegistries",
        "RegistryMethods",
        "Registries",
        "Blocking[AsyncRegistries]",
    ),
    _sandbox_unit("sandbox.py", "AsyncSandbox", without=("to_sync",)),
    _sandbox_unit("sandbox_commands.py", "CommandMethods"),
    _sandbox_unit("sandbox_directories.py", "DirectoryMethods"),
    _sandbox_unit("sandbox_files.py", "FileMethods"),
    _sandbox_unit("sandbox_search.py", "SearchMethods"),
    _sandbox_unit("sandbox_transfers.py", "TransferMethods"),
    _sandbox_unit("sandbox_tunnels.py", "TunnelMethods"),
    Unit(
        "command.py",
        "AsyncCommandHandle",
        "HandleMethods",
        "CommandHandle",
        "Blocking[AsyncCommandHandle]",
        # The rest is for the asynchronous package itself.
        without=("next_chunk", "take_chunks", "end_shielded", "leave"),
    ),
    Unit(
        "service.py",
        "AsyncServiceURL",
        "ServiceURLMethods",
        "ServiceURL",
        "Blocking[AsyncServiceURL]",
        only=("request", "get", "post", "put", "patch", "delete", "websocket"),
    ),
    Unit(
        "file_streams.py",
        "AsyncFileReader",
        "ReaderMethods",
        "FileReader",
        "Blocking[AsyncFileReader]",
    ),
    Unit(
        "file_streams.py",
        "AsyncFileWriter",
        "WriterMethods",
        "FileWriter",
        "Blocking[AsyncFileWriter]",
    ),
    Unit(
        "tunnel_streams.py",
        "TunnelStream",
        "TunnelStreamMethods",
        "BlockingTunnelStream",
        "Blocking[TunnelStream]",
        renamed={"aclose": "close"},
    ),
    Unit(
        "websocket.py",
        "AsyncWebSocket",
        "WebSocketMethods",
        "WebSocket",
        "Blocking[AsyncWebSocket]",
    ),
)

# What the asynchronous things are called here.
NAMES = {
    "AsyncSandboxClient": "SandboxClient",
    "AsyncSandbox": "Sandbox",
    "AsyncCommandHandle": "CommandHandle",
    "AsyncServiceURL": "ServiceURL",
    "AsyncTunnel": "Tunnel",
    "AsyncFileReader": "FileReader",
    "AsyncFileWriter": "FileWriter",
    "AsyncWebSocket": "WebSocket",
    "AsyncRegistries": "Registries",
    "TunnelStream": "BlockingTunnelStream",
    "ServiceResponse": "BlockingServiceResponse",
    "SandboxOpening": "Sandbox",
    "TunnelOpening": "Tunnel",
    "AsyncIterator": "Iterator",
    "Awaitable": "",
}

_OF_SANDBOX = frozenset({("sandbox", "Sandbox")})
_OF_COMMAND = frozenset({("command", "CommandHandle")})
_OF_SERVICE = frozenset({("service", "ServiceURL")})
_OF_FILES = frozenset({("files", "FileReader")})
_ITERATOR = frozenset({"Iterator"})
_CONTEXT = frozenset({"AbstractContextManager"})

# By what an asynchronous method returns.
RESULTS = {
    "AsyncSandbox": Result("Sandbox", "_sandbox", imports=_OF_SANDBOX),
    "SandboxOpening": Result("Sandbox", "_sandbox", imports=_OF_SANDBOX, awaited=True),
    "list[AsyncSandbox]": Result("list[Sandbox]", "_sandboxes", imports=_OF_SANDBOX),
    "AsyncIterator[AsyncSandbox]": Result(
        "Iterator[Sandbox]", "_sandbox", "_iterate", _OF_SANDBOX, _ITERATOR
    ),
    "AsyncIterator[Snapshot]": Result(
        "Iterator[Snapshot]", None, "_iterate", needs=_ITERATOR | {"Snapshot"}
    ),
    "AsyncServiceURL | ServiceLoginURL": Result(
        "ServiceURL | ServiceLoginURL",
        "_service_url",
        imports=_OF_SERVICE,
        needs=frozenset({"ServiceLoginURL"}),
    ),
    "AsyncServiceURL": Result("ServiceURL", "_service_url", imports=_OF_SERVICE),
    "ExecutionResult | AsyncCommandHandle": Result(
        "ExecutionResult | CommandHandle",
        "_result_or_handle",
        imports=_OF_COMMAND,
        needs=frozenset({"ExecutionResult"}),
    ),
    "AsyncCommandHandle": Result("CommandHandle", "_handle", imports=_OF_COMMAND),
    "Awaitable[ExecutionResult]": Result(
        "ExecutionResult", needs=frozenset({"ExecutionResult"}), awaited=True
    ),
    "AbstractAsyncContextManager[AsyncFileReader]": Result(
        "AbstractContextManager[FileReader]", None, "_reader", _OF_FILES, _CONTEXT
    ),
    "AbstractAsyncContextManager[AsyncFileWriter]": Result(
        "AbstractContextManager[FileWriter]",
        None,
        "_writer",
        frozenset({("files", "FileWriter")}),
        _CONTEXT,
    ),
    "TunnelStream": Result(
        "BlockingTunnelStream", "_stream", imports=frozenset({("tunnel", "BlockingTunnelStream")})
    ),
    "TunnelOpening": Result("Tunnel", None, "_tunnel", frozenset({("tunnel", "Tunnel")})),
    "ServiceResponse": Result(
        "BlockingServiceResponse",
        "_answer",
        imports=frozenset({("service", "BlockingServiceResponse")}),
    ),
    "AsyncWebSocket": Result(
        "WebSocket", "_websocket", imports=frozenset({("websocket", "WebSocket")})
    ),
}

# By the type of a parameter.
PARAMETERS = {
    "OutputCallback | None": Parameter(
        "OutputCallback | None", "callback_in_caller", needs=frozenset({"OutputCallback"})
    ),
    "Callable[[str], Any] | None": Parameter(
        "Callable[[str], Any] | None", "callback_in_caller", needs=frozenset({"Callable", "Any"})
    ),
    "Progress | None": Parameter(
        "Progress | None", "callback_in_caller", needs=frozenset({"Progress"})
    ),
    "ErrorCallback | None": Parameter(
        "ErrorCallback | None", "callback_in_thread", needs=frozenset({"ErrorCallback"})
    ),
    "Source": Parameter("BlockingSource", "source_in_caller", ours=True),
    "str | bytes | AsyncIterable[bytes] | None": Parameter(
        "str | bytes | Iterable[bytes] | None", "pieces_in_caller", needs=frozenset({"Iterable"})
    ),
}

# What docstrings say of tasks and loops, and what they say here. Each is there, or it goes.
PHRASES = {
    "``async with client.sandbox() as sb`` and ``async with await client.sandbox() as sb``\n"
    "        are the same. Parameters and errors": (
        "It is made at once, and is a context manager. Parameters and\n        errors"
    ),
    "cancelling the call leaves none": "Ctrl-C leaves none",
    "Cancelling a waiting `run` kills": "Ctrl-C in a waiting `run` kills",
    "; may be async.": ", in this thread.",
    "let the command go on when this task is cancelled, or when": (
        "let the command go on after Ctrl-C, or when"
    ),
    "Await it for the command's end; includes": "Waits for the command's end; includes",
    " or the task in `run`,": " or the call of `run`,",
    "a path, a file object open for reading bytes (an asynchronous one, too),\n"
    "            bytes, or an iterator of bytes of either kind.": (
        "a path, a file object open for reading bytes, bytes, or an iterable of bytes.\n"
        "            It is read in this thread."
    ),
    "            knows); may be a coroutine function.": "            knows), in this thread.",
    "            are known); may be a coroutine function. After": (
        "            are known), in this thread. After"
    ),
    "The result is a byte stream of anyio's: `send`, `receive`, `send_eof`, `aclose`. It\n"
    "        can": "The result is a stream of bytes: `send`, `receive`, `send_eof`, `close`. It\n"
    "        can",
    "``async with sandbox.tunnel(5432) as tunnel`` serves the port for the length of the\n"
    "        block, which owns the tasks for it. Awaited instead, it gives the tunnel with its\n"
    "        session open and its port taken, to be entered later.": (
        "It is served in the background, until it is closed, or for the length of a block:\n"
        "        ``with sandbox.tunnel(5432) as tunnel``."
    ),
    "called with the error of each connection that could not be made.": (
        "called with the error of each connection that could not be made, in a\n"
        "            thread of its own."
    ),
    "        :raises ValueError: a port is out of range.\n"
    "        :raises DataplaneNotConfiguredError: the sandbox has no ``dataplane_url``.\n\n"
    "        Awaiting or entering raises `SandboxConnectionError` if the session cannot be "
    "opened,\n"
    "        and `OSError` if the port is in use.": (
        "        :raises SandboxConnectionError: the session could not be opened.\n"
        "        :raises OSError: the port is in use, or may not be used.\n"
        "        :raises ValueError: a port is out of range.\n"
        "        :raises DataplaneNotConfiguredError: the sandbox has no ``dataplane_url``."
    ),
    "        :raises EndOfStream: the other end sends nothing more.\n": "",
    ":raises BrokenResourceError: the connection was reset or lost; its cause says why.": (
        ":raises SandboxClientError: the connection was reset or lost."
    ),
    ":raises ClosedResourceError: this stream was closed.": (
        ":raises TunnelError: this stream was closed."
    ),
    ":raises ClosedResourceError: this stream was closed, or its sending side.": (
        ":raises TunnelError: this stream was closed, or its sending side."
    ),
    ", or is cancelled,": "",
    "async with ": "with ",
    "async for ": "for ",
    "await file.write": "file.write",
    "for `aiter_bytes`": "for `iter_bytes`",
}

_NAMES = re.compile(rf"(?<!\w)({'|'.join(sorted(filter(None, NAMES), key=len)[::-1])})(?!\w)")


def spoken_synchronously(text: str, seen: set[str]) -> str:
    """A docstring in the words of those who block; notes which phrases it had."""
    for old, new in PHRASES.items():
        if old in text:
            seen.add(old)
            text = text.replace(old, new)
    return _NAMES.sub(lambda found: NAMES[found[1]] or found[1], text)
