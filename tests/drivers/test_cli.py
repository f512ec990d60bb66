"""The `sandbox` command, as a person types it."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from sandbox_anyio import AsyncSandboxClient
from sandbox_anyio.cli import main
from sandbox_anyio.local.launch import LocalHost

SANDBOX = [sys.executable, "-m", "sandbox_anyio"]


def environment(host: LocalHost | None = None) -> dict[str, str]:
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LANGSMITH_", "LANGCHAIN_"))
    }
    if host is not None:
        clean |= {"LANGSMITH_ENDPOINT": host.endpoint, "LANGSMITH_API_KEY": host.api_key}
    return clean


def sandbox(*arguments: str, host: LocalHost | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SANDBOX, *arguments],
        env=environment(host),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def names_on(host: LocalHost) -> list[str]:
    url = f"{host.endpoint}/v2/sandboxes/boxes"
    request = urllib.request.Request(url, headers={"x-api-key": host.api_key})
    with urllib.request.urlopen(request) as answer:
        return [box["name"] for box in json.load(answer)["sandboxes"]]


def test_run_starts_a_host_of_its_own_and_gives_output_and_status() -> None:
    done = sandbox("run", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)


def test_run_passes_arguments_as_they_are() -> None:
    done = sandbox(
        "run", "--env", "A=1 2", "--cwd", "/tmp", "--",
        "python3", "-c", "import sys, os; print(sys.argv[1:], os.environ['A'], os.getcwd())",
        "a b", "$HOME", "quote'd", "*",
    )  # fmt: skip
    assert done.stdout == "['a b', '$HOME', \"quote'd\", '*'] 1 2 /tmp\n"


def test_run_on_the_endpoint_of_the_environment_deletes_what_it_made(host: LocalHost) -> None:
    before = names_on(host)
    assert sandbox("run", "--", "true", host=host).returncode == 0
    assert names_on(host) == before


def test_run_says_when_time_is_up(host: LocalHost) -> None:
    done = sandbox("run", "--timeout", "1", "--", "sleep", "100", host=host)
    assert done.returncode == 124
    assert "1 s" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_kills_the_command_and_still_deletes(
    host: LocalHost, number: signal.Signals
) -> None:
    before = names_on(host)
    with subprocess.Popen(
        [*SANDBOX, "run", "--", "sh", "-c", "echo up; sleep 1000"],
        env=environment(host),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert len(names_on(host)) == len(before) + 1
        process.send_signal(number)
        assert process.wait(timeout=20) == 128 + number
    assert names_on(host) == before


def test_output_comes_while_the_command_runs(host: LocalHost) -> None:
    with subprocess.Popen(
        [*SANDBOX, "run", "--", "sh", "-c", "echo first; sleep 1; echo second"],
        env=environment(host),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "first\n"
        began = time.monotonic()
        assert process.stdout.readline() == "second\n"
        assert time.monotonic() - began > 0.5


def test_ls_and_rm(host: LocalHost) -> None:
    created = subprocess.run(
        [sys.executable, "-c", _CREATE],
        env=environment(host),
        capture_output=True,
        text=True,
        check=True,
    )
    name = created.stdout.strip()
    table = sandbox("ls", host=host).stdout
    assert table.startswith("NAME ") and name in table and "ready" in table
    listed = json.loads(sandbox("ls", "--json", host=host).stdout)
    assert name in [box["name"] for box in listed]
    removed = sandbox("rm", name, "no-such", host=host)
    assert (removed.stdout, removed.returncode) == (f"{name}\n", 1)
    assert "no sandbox 'no-such'" in removed.stderr
    assert name not in names_on(host)


_CREATE = """
import anyio
from sandbox_anyio import AsyncSandboxClient
async def create():
    async with AsyncSandboxClient() as client:
        sandbox = await client.create_sandbox()
        await sandbox.write("note", "written before the crash")
        print(sandbox.name)
anyio.run(create)
"""


def test_serve_announces_itself_and_drains_on_sigterm(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*SANDBOX, "serve", "--port", "0", "--state", str(tmp_path / "state")],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert set(ready) == {"endpoint", "api_key", "isolation"}
        served = LocalHost(**ready)
        assert sandbox("run", "--", "echo", "hi", host=served).stdout == "hi\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


def test_without_isolation_it_warns_every_time() -> None:
    done = sandbox("run", "--isolation", "none", "--", "echo", "hi")
    assert done.stdout == "hi\n"
    assert "isolation is off" in done.stderr


def test_doctor_tells_what_was_found() -> None:
    done = sandbox("doctor")
    assert "endpoint: none" in done.stdout
    assert done.returncode == 0, done.stdout


def test_mistakes_are_told_in_one_sentence() -> None:
    assert "LANGSMITH_ENDPOINT is not set" in sandbox("ls").stderr
    assert "NAME=VALUE" in sandbox("run", "--env", "oops", "--", "true").stderr


def test_so_is_a_host_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, where it need not be tried for nine seconds."""
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)
    monkeypatch.setenv("LANGSMITH_ENDPOINT", "http://127.0.0.1:1")
    hasty = functools.partial(AsyncSandboxClient, max_retries=0)
    monkeypatch.setattr(sys.modules[main.__module__], "AsyncSandboxClient", hasty)
    with pytest.raises(SystemExit) as caught:
        main(["ls"])
    assert caught.value.code == 1
    [sentence] = capsys.readouterr().err.splitlines()
    assert sentence.startswith("sandbox: ") and "127.0.0.1:1" in sentence


def test_help_teaches() -> None:
    assert "sandbox run -- python3 -c" in sandbox("run", "--help").stdout
    overview = sandbox("--help").stdout
    for command in ("run", "serve", "ls", "rm", "doctor"):
        assert command in overview


def test_a_host_with_a_state_directory_keeps_its_sandboxes(tmp_path: Path) -> None:
    serve = [*SANDBOX, "serve", "--state", str(tmp_path / "state"), "--api-key", "kept"]
    for attempt in range(2):
        with subprocess.Popen(
            serve, env=environment(), stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            served = LocalHost(**json.loads(process.stdout.readline()))
            script = _CREATE if attempt == 0 else _READ
            done = subprocess.run(
                [sys.executable, "-c", script],
                env=environment(served),
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            if attempt:
                assert done.stdout == "b'written before the crash'\n"
            else:
                process.kill()  # no farewell: what was acknowledged must be there all the same
            process.terminate()


_READ = """
import anyio
from sandbox_anyio import AsyncSandboxClient
async def read():
    async with AsyncSandboxClient() as client:
        [sandbox] = await client.list_sandboxes()
        print(await sandbox.read("note"))
        await sandbox.delete()
anyio.run(read)
"""
