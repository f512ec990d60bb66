"""The same story, whoever drives; and none of the drivers knows what it is about."""

from __future__ import annotations

import ast
import json
import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

from sandbox_anyio.local.launch import LocalHost

from ..drivers._servers import Relay, ScriptedServer
from ..drivers._terminator import tls_in_front_of
from .story import ECHOED_BYTES

HERE = Path(__file__).parent
DRIVERS = sorted(path.stem for path in HERE.glob("with_*.py"))
TOLD = {
    "status": "ready",
    "chunks": ["got one\n", "got two\n", "got three\n"],
    "exit_code": 7,
    "echoed": ECHOED_BYTES,
    "echoed_right": True,
    "killed_with": 137,
    "deleted": True,
    "error": "",
}
every_driver = pytest.mark.parametrize("driver", DRIVERS)


def play(driver: str, endpoint: str, key: str, **environ: str) -> dict[str, Any]:
    """Play it in a process of its own, where any warning is an error; returns what was told."""
    command = [sys.executable, "-W", "error", "-m", "tests.embedding", driver, endpoint]
    inherited = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    done = subprocess.run(
        command,
        cwd=HERE.parent.parent,
        env=inherited | {"LANGSMITH_API_KEY": key} | environ,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert not {"anyio", "trio", "sandbox_anyio"} & set(said["loaded"])
    told: dict[str, Any] = said["told"]
    return told


def test_there_are_five():
    assert DRIVERS == [
        "with_asyncio",
        "with_curio",
        "with_gevent",
        "with_selectors",
        "with_twisted",
    ]


@every_driver
def test_the_story(driver: str, host: LocalHost) -> None:
    assert play(driver, host.endpoint, host.api_key) == TOLD


@every_driver
def test_the_story_over_tls(driver: str, host: LocalHost, tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    with tls_in_front_of(host, context) as port:
        url = f"https://localhost:{port}"
        assert play(driver, url, host.api_key, SSL_CERT_FILE=str(bundle)) == TOLD
        told = play(driver, url, host.api_key)
    assert not told["status"] and "certificate" in told["error"].lower()


@every_driver
def test_the_story_with_lost_answers(driver: str, host: LocalHost) -> None:
    """The answers to the creation, to an attachment and to the deletion are lost, once each."""
    once = [b"POST /boxes ", b"/execute/ws", b"DELETE /"]

    def cut(asked: bytes) -> bool:
        found = next((words for words in once if words in asked), None)
        if found is not None:
            once.remove(found)
        return found is not None

    with Relay(host.endpoint, cut) as relay:
        assert play(driver, relay.url, host.api_key) == TOLD
        assert (relay.cuts, once) == (3, [])


@every_driver
def test_nobody_listens(driver: str) -> None:
    with socket.socket() as bound:  # bound and not listening: the port refuses
        bound.bind(("127.0.0.1", 0))
        told = play(driver, f"http://127.0.0.1:{bound.getsockname()[1]}", "key")
    assert told == {
        **TOLD,
        "status": "",
        "chunks": [],
        "exit_code": -1,
        "echoed": 0,
        "killed_with": -1,
        "deleted": False,
        "error": told["error"],
    }
    assert "cannot connect to http://127.0.0.1" in told["error"]
    assert "(4 attempts)" in told["error"]


@every_driver
def test_whoever_listens_hangs_up(driver: str) -> None:
    with ScriptedServer(lambda connection: None) as server:
        told = play(driver, server.url, "key")
    assert "SandboxConnectionError" in told["error"] and not told["status"]
    # Four attempts; after each on which anything was sent it was asked whether there is one.
    assert server.connections >= 4


# --- no protocol in a driver ----------------------------------------------------------

_OF_THE_CORE = {"SEND_EOF", "Carrier", "Conversation", "Origin", "Output", "earliest"}
_OF_THE_LOOP = {
    "with_asyncio": {"asyncio", "ssl"},
    "with_curio": {"curio", "time"},
    "with_gevent": {"gevent", "time"},
    "with_selectors": {"selectors", "socket", "ssl", "time"},
    "with_twisted": {"twisted", "zope"},
}
_EVERYBODYS = {"__future__", "collections", "typing"}
# What a driver may ask of a conversation: when to give up dialling.
_OF_A_CONVERSATION = {"next_deadline"}
_NUMBERS = {0, 1, 0.001, 256, 1024}
_MOST_LINES = 126  # "about 120", without empty lines


def decisions(source: str, loop: set[str]) -> list[str]:
    """Whatever in a driver could be a decision about the protocol."""
    tree, found = ast.parse(source), []
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                modules = {alias.name.partition(".")[0] for alias in names}
                found += [f"imports {name}" for name in modules - loop - _EVERYBODYS]
            case ast.ImportFrom("sandbox_proto.embedding", names):
                found += [f"uses {each.name}" for each in names if each.name not in _OF_THE_CORE]
            case ast.ImportFrom(module):
                if (module or "").partition(".")[0] not in loop | _EVERYBODYS:
                    found.append(f"imports {module}")
            case ast.Constant(str() | bytes() as text) if id(node) not in docstrings:
                if text:
                    found.append(f"says {text!r}")
            case ast.Constant(bool() | None):
                pass
            case ast.Constant(int() | float() as number) if number not in _NUMBERS:
                found.append(f"knows {number}")
            case ast.Attribute(ast.Attribute(_, "conversation"), name):
                if name not in _OF_A_CONVERSATION:
                    found.append(f"asks the conversation for {name}")
            case ast.Match() | ast.JoinedStr():
                found.append(f"has a {type(node).__name__}")
            case ast.Call(ast.Name("isinstance" | "hasattr" | "getattr" | "type")):
                found.append("looks at what something is")
    return found


@every_driver
def test_no_driver_decides_anything_about_the_protocol(driver: str, record_property: Any) -> None:
    source = (HERE / f"{driver}.py").read_text()
    assert decisions(source, _OF_THE_LOOP[driver]) == []
    lines = sum(1 for line in source.splitlines() if line.strip())
    record_property("lines", lines)
    print(f"{driver}: {lines} lines of code, {len(source.splitlines())} with empty ones")
    assert lines <= _MOST_LINES


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("import json", "imports json"),
        ("from sandbox_proto.machines.http1 import Http1Client", "imports sandbox_proto.machines"),
        ("from sandbox_proto.embedding import FlowSession", "uses FlowSession"),
        ("self.send(b'ping')", "says b'ping'"),
        ("if data[0] == 0x8A: pass", "knows 138"),
        ("self.conversation.kill(now=0)", "asks the conversation for kill"),
        ("match event:\n    case _: pass", "has a Match"),
        ("if isinstance(event, Exit): pass", "looks at what something is"),
    ],
)
def test_a_decision_would_be_found(line: str, what: str) -> None:
    assert any(what in found for found in decisions(line, {"socket"}))
