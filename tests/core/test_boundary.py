"""THE LAW: the core does no I/O and knows no clock, no chance, no loop (design section 2)."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sandbox_proto

from ._boundary_probe import FORBIDDEN_MODULES

ROOT = Path(sandbox_proto.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))

# What a module of the core might do, and what must be said about it.
OFFENDERS = {
    "import socket": "imports socket",
    "import os.path": "imports os.path",
    "from time import monotonic": "imports time",
    "from concurrent import futures": "imports concurrent",
    "from urllib import request": "imports urllib.request",
    "def late():\n    import asyncio\nlate()": "imports asyncio",
    "import trio": "imports trio",
    "import anyio.abc": "imports anyio.abc",
    "import sandbox_anyio": "imports sandbox_anyio",
    "import importlib\nimportlib.import_module('ssl')": "uses import_module('ssl')",
    "import sys\nsys.modules['time'].time()": "uses time.time",
    "import sys\nsys.modules['time'].monotonic()": "uses time.monotonic",
    "import sys\nsys.modules['os'].urandom(8)": "uses os.urandom",
    "import sys\nsys.modules['threading'].Thread(target=print)": "uses threading.Thread()",
    "import sys\nsys.modules['socket'].socket()": "uses socket.socket()",
    "import sys\nsys.modules['subprocess'].Popen(['true'])": "uses subprocess.Popen()",
    "import sys\nsys.modules['uuid'].uuid4()": "uses uuid.uuid4",
    "import random\nrandom.random()": "uses random.random",
    "import random\nrandom.shuffle([1, 2])": "uses random.shuffle",
    "from random import SystemRandom\nSystemRandom()": "uses random.SystemRandom()",
    "import datetime\ndatetime.datetime.now()": "uses datetime.now",
    "from datetime import UTC, datetime\ndatetime.now(UTC)": "uses datetime.now",
    "import io\nio.open('/dev/null')": "uses io.open",
    "open('/dev/null')": "uses builtins.open",
    "print('hello')": "uses builtins.print",
}
INNOCENTS = [
    "import random\nrandom.Random(1).random()",
    "import io\nio.BytesIO(b'x')",
    "from datetime import datetime\ndatetime.fromisoformat('2026-01-01T00:00:00+00:00')",
    "import h11, wsproto, attrs, cattrs\nfrom email.utils import parsedate_to_datetime",
    # wsproto draws a mask key: that is its own business.
    "from wsproto.connection import Connection, ConnectionType\n"
    "from wsproto.events import Ping\n"
    "Connection(ConnectionType.CLIENT).send(Ping())",
]


@pytest.fixture(scope="module")
def probe() -> dict[str, Any]:
    """What happened to the core among poisoned modules."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("_boundary_probe.py"))],
        input=json.dumps([*OFFENDERS, *INNOCENTS]),
        env={**os.environ, "PYTHONPATH": str(ROOT.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_every_module_of_the_core_can_be_imported(probe):
    wanted = {_module_name(path) for path in SOURCES} - {"sandbox_proto"}
    assert set(probe["modules"]) == wanted
    assert {
        name for name, outcome in probe["modules"].items() if outcome != {"result": True}
    } == set()


def test_a_whole_story_runs_without_touching_the_outside(probe):
    expected = ["CommandStarted", "OutputChunk", "CommandExited", "content", "True", "[]"]
    assert probe["story"] == {"result": expected}


@pytest.mark.parametrize("source", OFFENDERS)
def test_an_offender_would_be_caught(probe, source):
    assert probe["offenders"][source] == {
        "violation": f"sandbox_proto.offender {OFFENDERS[source]}"
    }


@pytest.mark.parametrize("source", INNOCENTS)
def test_an_innocent_would_not(probe, source):
    assert probe["offenders"][source] == {"result": None}


# --- and by reading the source --------------------------------------------------------

ALLOWED = {
    *("__future__", "abc", "attrs", "base64", "binascii", "bisect", "cattrs", "codecs"),
    *("collections", "contextlib", "copy", "datetime", "decimal", "difflib", "email.utils"),
    *("enum", "errno", "importlib", "inspect"),
    *("fnmatch", "functools", "h11", "hashlib", "heapq", "hmac", "html", "io", "ipaddress"),
    *("itertools", "json", "math", "operator", "posixpath", "random", "re", "sandbox_proto"),
    *("shlex", "string", "struct", "textwrap", "types", "typing", "unicodedata", "urllib.parse"),
    *("warnings", "wsproto", "zlib"),
}
# Of these only what is named here.
ALLOWED_PARTS = {
    "io": {"BytesIO"},
    "random": {"Random"},
    "datetime": {"UTC", "datetime"},
    "importlib": {"import_module"},  # of the core's own modules, by the names in a trace
    "inspect": {"isgeneratorfunction", "ismethod", "signature", "unwrap"},
}
CLOCKS = {"now", "utcnow", "today"}
BUILTINS = {"open", "input", "print", "__import__"}


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def offences(source: str) -> Iterator[str]:
    """What in a source breaks the law, wherever it stands."""
    tree = ast.parse(source)
    modules: dict[str, str] = {}  # local name -> module
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                modules[alias.asname or alias.name] = alias.name
                if not _is_allowed(alias.name):
                    yield f"imports {alias.name}"
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from _from_import(node.module or "", [alias.name for alias in node.names])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in BUILTINS:
            yield f"uses {node.id}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            module = modules.get(owner, "")
            if node.attr not in ALLOWED_PARTS.get(module, {node.attr}):
                yield f"uses {module}.{node.attr}"
            elif node.attr in CLOCKS and owner.rpartition(".")[2] in ("datetime", "date"):
                yield f"uses {owner}.{node.attr}"


def _from_import(module: str, names: list[str]) -> Iterator[str]:
    for name in names:
        if not _is_allowed(module) or _is_forbidden(f"{module}.{name}"):
            yield f"imports {module}.{name}"
        elif name not in ALLOWED_PARTS.get(module, {name}):
            yield f"imports {name} from {module}"


def _is_allowed(module: str) -> bool:
    return any(module == name or module.startswith(name + ".") for name in ALLOWED)


def _is_forbidden(module: str) -> bool:
    return any(module == name or module.startswith(name + ".") for name in FORBIDDEN_MODULES)


@pytest.mark.parametrize("path", SOURCES, ids=_module_name)
def test_no_module_names_anything_forbidden_even_inside_functions(path):
    assert list(offences(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        *(
            source
            for source in OFFENDERS
            if "sys.modules" not in source and "importlib" not in source
        ),
        "import importlib\nimportlib.reload(x)",
        "import sys",
        "__import__('socket')",
        "class C:\n    def f(self):\n        from threading import Lock",
        "import random as chance\nchance.choice",
        "from random import choice",
        "from io import open",
    ],
)
def test_reading_the_source_would_find_an_offender(source):
    assert list(offences(source)) != []


def test_the_allowed_and_the_forbidden_do_not_overlap():
    assert {name for name in ALLOWED if _is_forbidden(name)} == set()
