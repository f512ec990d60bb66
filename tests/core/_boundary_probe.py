"""Run in a process of its own: the core among poisoned modules (see `test_boundary`).

What libraries do on their own account is theirs: wsproto may draw its mask keys from
`os.urandom`. So an import or a call is forbidden only when it is *written* in a module of
`sandbox_proto`, which the frame that imports or calls tells. Prints JSON.
"""

from __future__ import annotations

import builtins
import importlib
import json
import pkgutil
import sys
import traceback
from collections.abc import Callable
from typing import Any

CORE = "sandbox_proto"

FORBIDDEN_MODULES = {
    *("socket", "ssl", "select", "selectors", "socketserver", "threading", "_thread"),
    *("subprocess", "multiprocessing", "concurrent", "asyncio", "trio", "anyio", "uvicorn"),
    *("time", "os", "posix", "pathlib", "shutil", "tempfile", "glob", "signal", "fcntl"),
    *("secrets", "uuid", "urllib.request", "http", "requests", "httpx", "sched", "queue"),
    *("ctypes", "logging", "getpass", "platform", "sandbox_anyio", "sandbox_trio_compat"),
}

# module -> what in it must not be called from the core, should it get there somehow
FORBIDDEN_CALLS = {
    "socket": ["create_connection", "getaddrinfo", "socketpair"],
    "select": ["select", "poll", "epoll"],
    "subprocess": ["run", "call", "check_output"],
    "asyncio": ["run", "new_event_loop", "sleep", "create_task", "get_running_loop"],
    "time": ["time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "sleep", "localtime"],
    "os": ["urandom", "open", "getenv", "getpid", "stat", "listdir", "write", "read", "system"],
    "random": [
        *("random", "seed", "randint", "randrange", "choice", "choices", "shuffle", "uniform"),
        *("getrandbits", "randbytes", "sample", "gauss", "betavariate", "expovariate"),
    ],
    "uuid": ["uuid1", "uuid4", "getnode"],
    "secrets": ["token_bytes", "token_hex", "token_urlsafe", "randbelow", "choice"],
    "io": ["open", "FileIO"],
    "builtins": ["open", "input", "print", "exec", "eval"],
}
FORBIDDEN_CLASSES = {
    "socket": ["socket"],
    "threading": ["Thread", "Timer"],
    "subprocess": ["Popen"],
    "random": ["SystemRandom"],
}


class BoundaryViolation(BaseException):
    """Nothing in the core catches this."""


def _is_core(name: object) -> bool:
    return isinstance(name, str) and (name == CORE or name.startswith(CORE + "."))


def _refuse_core(what: str) -> None:
    caller = sys._getframe(2).f_globals.get("__name__")
    if _is_core(caller):
        raise BoundaryViolation(f"{caller} uses {what}")


def _forbidden(module: str) -> bool:
    parts = module.split(".")
    return any(".".join(parts[: end + 1]) in FORBIDDEN_MODULES for end in range(len(parts)))


def _poison_imports() -> None:
    real_import, real_import_module = builtins.__import__, importlib.import_module

    def guarded_import(name: str, globals: Any = None, locals: Any = None, *rest: Any) -> Any:
        importer = (globals or {}).get("__name__")
        level = rest[1] if len(rest) > 1 else 0
        if _is_core(importer) and not level:
            names = [name, *(f"{name}.{item}" for item in (rest[0] if rest else None) or ())]
            if bad := [each for each in names if _forbidden(each)]:
                raise BoundaryViolation(f"{importer} imports {bad[0]}")
        return real_import(name, globals, locals, *rest)

    def guarded_import_module(name: str, package: str | None = None) -> Any:
        if _forbidden(name):
            _refuse_core(f"import_module({name!r})")
        return real_import_module(name, package)

    builtins.__import__ = guarded_import
    importlib.import_module = guarded_import_module  # type: ignore[assignment]


def _poison_calls() -> None:
    for module_name, names in FORBIDDEN_CALLS.items():
        module = importlib.import_module(module_name)
        for name in names:
            setattr(module, name, _guarded(getattr(module, name), f"{module_name}.{name}"))
    for module_name, names in FORBIDDEN_CLASSES.items():
        module = importlib.import_module(module_name)
        for name in names:
            kind = getattr(module, name)
            kind.__init__ = _guarded(kind.__init__, f"{module_name}.{name}()")


def _guarded(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    def guarded(*args: Any, **keywords: Any) -> Any:
        _refuse_core(what)
        return function(*args, **keywords)

    return guarded


def _poison_datetime() -> None:
    import datetime

    real = datetime.datetime

    class GuardedDatetime(real):  # type: ignore[valid-type,misc]
        """Everything that needs no clock."""

    for name in ("now", "utcnow", "today"):
        setattr(
            GuardedDatetime, name, staticmethod(_guarded(getattr(real, name), f"datetime.{name}"))
        )
    datetime.datetime = GuardedDatetime  # type: ignore[misc]


def _drive() -> list[str]:
    """Create, run, upload, download, list and delete, in memory."""
    from sandbox_proto.flows.commands import CommandSpec, start_command
    from sandbox_proto.flows.creation import Creation
    from sandbox_proto.flows.files import read_file, write_file
    from sandbox_proto.flows.sandboxes import delete_sandbox, list_sandboxes, wait_for_sandbox
    from sandbox_proto.testing import ModelHost, World
    from sandbox_proto.wire.creation import CreationSpec

    host = ModelHost()
    host.boot_seconds = 2.5
    host.on_command("make test", stdout="42 passed\n", stderr="", exit_code=0, duration=90)
    world = World(host, split=50)
    creation = Creation(world.context(), CreationSpec(), timeout=30, wait_for_ready=True)
    box = world.drive(creation.run())
    base = box.dataplane_url
    world.drive(wait_for_sandbox(world.context(), box.name, timeout=5, poll_interval=1))
    spec = CommandSpec(command="make test", timeout=100)
    session = start_command(world.context(), base, spec, unix_seconds=1.7e9)
    events = world.run(session)
    world.drive(write_file(world.context(), base, "/f", b"content", timeout=5))
    content = world.drive(read_file(world.context(), base, "/f", timeout=5))
    names = [each.name for each in world.drive(list_sandboxes(world.context()))]
    world.drive(delete_sandbox(world.context(), box.name))
    left = world.drive(list_sandboxes(world.context()))
    return [
        *(type(event).__name__ for event in events),
        content.decode(),
        str(names == [box.name]),
        str(left),
    ]


def _attempt(act: Callable[[], object]) -> dict[str, Any]:
    try:
        return {"result": act()}
    except BoundaryViolation as violation:
        return {"violation": str(violation)}
    except BaseException:
        return {"error": traceback.format_exc()}


def _offend(source: str) -> Callable[[], None]:
    """A module of the core with this text."""

    def run() -> None:
        real_exec(compile(source, "offender", "exec"), {"__name__": f"{CORE}.offender"})

    return run


real_exec = builtins.exec


def main() -> None:
    offenders = json.load(sys.stdin)
    report, sys_path_report = {}, sys.stdout
    # The libraries and what they import on their own account come first.
    for name in ("h11", "wsproto", "wsproto.connection", "attrs", "cattrs", "email.utils"):
        importlib.import_module(name)
    for name in [*FORBIDDEN_CALLS, *FORBIDDEN_CLASSES]:
        importlib.import_module(name)
    _poison_datetime()
    _poison_calls()
    _poison_imports()
    package = importlib.import_module(CORE)
    found = [each.name for each in pkgutil.walk_packages(package.__path__, CORE + ".")]
    report["modules"] = {
        name: _attempt(lambda name=name: bool(importlib.import_module(name))) for name in found
    }
    report["story"] = _attempt(_drive)
    report["offenders"] = {source: _attempt(_offend(source)) for source in offenders}
    json.dump(report, sys_path_report)


if __name__ == "__main__":
    main()
