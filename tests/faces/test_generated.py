"""The synchronous methods are those that the asynchronous ones make, and all of them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

import sandbox_anyio
from sandbox_anyio.blocking import generate
from sandbox_anyio.registries import AsyncRegistries

AGAIN = "run python -m sandbox_anyio.blocking.generate"

PAIRS = [
    ("AsyncSandboxClient", "SandboxClient"),
    ("AsyncSandbox", "Sandbox"),
    ("AsyncCommandHandle", "CommandHandle"),
    ("AsyncServiceURL", "ServiceURL"),
    ("ServiceResponse", "BlockingServiceResponse"),
    ("AsyncTunnel", "Tunnel"),
    ("TunnelStream", "BlockingTunnelStream"),
    ("AsyncFileReader", "FileReader"),
    ("AsyncFileWriter", "FileWriter"),
    ("AsyncWebSocket", "WebSocket"),
    ("AsyncRegistries", "Registries"),
]

RENAMED = {"aclose": "close", "aiter_bytes": "iter_bytes", "to_sync": "to_async"}

# What blocking code has no use for, and why.
ABSENT = {
    "AsyncSandboxClient": {
        # for the package itself
        "drive", "flow_context", "new_run", "track", "untrack", "settings", "make", "connect",
        "let_go", "keep", "take_kept", "take_opened", "attendance", "traced", "check_replay",
        "closed", "tracked", "busy_streams",
    },
    "AsyncSandbox": {"from_json"},  # sandboxes of an answer, which those here are made of
    "AsyncCommandHandle": {"next_chunk", "take_chunks", "end_shielded", "leave"},
    # properties renew themselves; an object of `of` has its client
    "AsyncServiceURL": {
        "get_token", "get_service_url", "get_browser_url", "get_expires_at", "get_embed_url",
        "of_grant",
    },
    "AsyncTunnel": {"serve"},  # a task of one's own
    "TunnelStream": {"extra", "extra_attributes"},
}  # fmt: skip


def test_what_is_committed_is_what_would_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0, AGAIN
    assert capsys.readouterr().out == ""


def test_what_is_stale_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = Path.read_text

    def read_old(path: Path) -> str:
        text = read(path)
        return text.replace("def kill", "def end") if path.parent.name == "generated" else text

    monkeypatch.setattr(Path, "read_text", read_old)
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().out == f"stale: generated/command.py; {AGAIN}\n"


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_nothing_public_is_missing_and_all_parameters_are_the_same(theirs: str, ours: str) -> None:
    asynchronous = (
        AsyncRegistries if theirs == "AsyncRegistries" else getattr(sandbox_anyio, theirs)
    )
    blocking = getattr(sandbox_anyio, ours)
    absent = ABSENT.get(theirs, set())
    public = {name for name in dir(asynchronous) if not name.startswith("_")} - absent
    missing = {name for name in public if not hasattr(blocking, RENAMED.get(name, name))}
    assert missing == set()
    for name in public:
        method, twin = getattr(asynchronous, name), getattr(blocking, RENAMED.get(name, name))
        if callable(method) and not inspect.isclass(method) and name != "from_record":
            assert _parameters(method) == _parameters(twin), name


@pytest.mark.parametrize("ours", [ours for _, ours in PAIRS])
def test_nothing_has_to_be_awaited(ours: str) -> None:
    for name, value in inspect.getmembers(getattr(sandbox_anyio, ours)):
        assert not inspect.iscoroutinefunction(value), name
        assert not inspect.isasyncgenfunction(value), name
        text = inspect.getdoc(value) or ""
        assert name.startswith("_") or "await" not in text.split(), name


def _parameters(function: Any) -> list[tuple[str, Any, Any]]:
    """Names, kinds and defaults; without those that users do not give."""
    return [
        (each.name, each.kind, each.default)
        for each in inspect.signature(function).parameters.values()
        if not each.name.startswith("_")
    ]
