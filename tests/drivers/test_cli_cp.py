"""`sandbox cp`, as a person types it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_anyio.local.launch import LocalHost

from .test_cli import SANDBOX, environment


class Box:
    """A sandbox by its name, asked over plain HTTP."""

    def __init__(self, host: LocalHost) -> None:
        self.host = host
        made = self._ask("POST", "/v2/sandboxes/boxes", {"wait_for_ready": True})
        self.name: str = made["name"]

    def _ask(self, method: str, path: str, body: object = None) -> dict[str, str]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"x-api-key": self.host.api_key, "content-type": "application/json"}
        request = urllib.request.Request(self.host.endpoint + path, data, headers, method=method)
        with urllib.request.urlopen(request) as answer:
            text = answer.read()
        return json.loads(text) if text else {}

    def run(self, command: str) -> str:
        body = {"command": command, "shell": "/bin/sh", "timeout": 30}
        done = self._ask("POST", f"/v2/sandboxes/{self.name}/execute", body)
        assert not done["exit_code"], done
        return done["stdout"]

    def delete(self) -> None:
        self._ask("DELETE", f"/v2/sandboxes/boxes/{self.name}")

    def cp(self, *arguments: str, stdin: bytes = b"", cwd: Path | None = None):
        """`BOX:` at the beginning of an argument stands for this sandbox."""
        named = [each.replace("BOX:", f"{self.name}:", 1) for each in arguments]
        return subprocess.run(
            [*SANDBOX, "cp", *named],
            env={**environment(self.host), "PYTHONPATH": str(Path(__file__).parents[2])},
            cwd=cwd,
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def box(host: LocalHost) -> Iterator[Box]:
    box = Box(host)
    yield box
    box.delete()


def test_a_file_there_and_back(box: Box, tmp_path: Path) -> None:
    content = os.urandom(1 << 20)
    (tmp_path / "a b").write_bytes(content)
    done = box.cp(str(tmp_path / "a b"), "BOX:/home/user/deep/er/c d")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert box.cp("BOX:/home/user/deep/er/c d", str(tmp_path / "new" / "e")).returncode == 0
    assert (tmp_path / "new" / "e").read_bytes() == content


def test_into_directories_and_relative_paths(box: Box, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    for to in ("BOX:", "BOX:/tmp", "BOX:new/", "BOX:plain"):
        done = box.cp("f", to, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert box.run("cd /home/user; ls -d f /tmp/f new/f plain") == "/tmp/f\nf\nnew/f\nplain\n"
    (tmp_path / "there").mkdir()
    for to, place in (("there", "there/f"), (".", "f"), ("other/", "other/f")):
        assert box.cp("BOX:new/f", to, cwd=tmp_path).returncode == 0
        assert (tmp_path / place).read_text() == "x"


def test_programs_stay_programs(box: Box, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "run").chmod(0o755)
    assert box.cp(str(tmp_path / "run"), "BOX:run it").returncode == 0
    assert box.run("'/home/user/run it'") == "ran\n"


def test_directories(box: Box, tmp_path: Path) -> None:
    source = tmp_path / "project"
    (source / "src").mkdir(parents=True)
    (source / "src" / "a.py").write_text("a")
    (source / "src" / "a.pyc").write_text("a")
    (source / "out").symlink_to("/etc/passwd")
    done = box.cp("--ignore", "*.pyc", str(source), "BOX:/home/user")
    assert done.returncode == 0, done.stderr
    listing = "cd /home/user; find . ! -type d | sort"
    assert box.run(listing) == "./project/out\n./project/src/a.py\n"
    assert box.cp(f"{source}/.", "BOX:as").returncode == 0
    assert box.run("cat /home/user/as/src/a.pyc") == "a"
    assert box.cp(str(source), "BOX:new", cwd=tmp_path).returncode == 0
    assert box.run("cat /home/user/new/src/a.py") == "a"

    back = box.cp("BOX:/home/user/project", str(tmp_path / "back"))
    assert back.returncode == 0
    assert b"'out' was left out" in back.stderr and b"outside" in back.stderr
    assert (tmp_path / "back" / "src" / "a.py").read_text() == "a"
    assert box.cp("BOX:project/", str(tmp_path / "back"), "--quiet").returncode == 0
    assert (tmp_path / "back" / "project" / "src" / "a.py").read_text() == "a"


def test_standard_streams(box: Box, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    assert box.cp("-", "BOX:/home/user/f", stdin=content).returncode == 0
    back = box.cp("BOX:/home/user/f", "-")
    assert (back.returncode, back.stdout, back.stderr) == (0, content, b"")
    for stdin in ("/dev/null", tmp_path / "regular"):
        (tmp_path / "regular").write_bytes(b"regular")
        with open(stdin, "rb") as file:  # noqa: PTH123
            subprocess.run(
                [*SANDBOX, "cp", "-", f"{box.name}:in"],
                env=environment(box.host),
                stdin=file,
                timeout=60,
                check=True,
            )
        assert box.run("wc -c < /home/user/in").strip() == (
            "0" if file.name == "/dev/null" else "7"
        )


def test_a_pipe_is_read_as_it_comes_and_can_be_broken_off(box: Box) -> None:
    with subprocess.Popen(
        [*SANDBOX, "cp", "-", f"{box.name}:/home/user/f"],
        env=environment(box.host),
        stdin=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(b"x")
        process.stdin.flush()
        deadline = time.monotonic() + 20
        while "upload" not in box.run("ls -A /home/user") and time.monotonic() < deadline:
            pass
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
    deadline = time.monotonic() + 20
    while box.run("ls -A /home/user") and time.monotonic() < deadline:
        pass
    assert box.run("ls -A /home/user") == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a", "b"), "NAME:PATH"),
        (("BOX:a", "BOX:b"), "NAME:PATH"),
        (("BOX:/nowhere", "x"), "'/nowhere'"),
        (("/no/such/file", "BOX:x"), "/no/such/file"),
        (("no-such-box:x", "y"), "no-such-box"),
        (("/etc/hostname", "BOX:/usr/x"), "/usr/x"),
    ],
)
def test_what_cannot_be_copied_is_said_in_a_line(
    box: Box, tmp_path: Path, arguments: tuple[str, str], said: str
) -> None:
    done = box.cp(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    text = done.stderr.decode()
    assert text.startswith("sandbox: ") and said in text and text.count("\n") == 1, text


def test_somebody_who_looks_sees_progress(box: Box, tmp_path: Path) -> None:
    pytest.importorskip("rich", reason="the progress bar is rich's, from the extra `cli`")
    (tmp_path / "f").write_bytes(bytes(8 << 20))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*SANDBOX, "cp", str(tmp_path / "f"), f"{box.name}:/home/user/f"],
        env={**environment(box.host), "TERM": "xterm", "COLUMNS": "120"},
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 65536):
            shown += data
    except OSError:
        pass  # the other end of a terminal is gone
    assert process.wait(timeout=30) == 0
    os.close(ours)
    assert b"8.0" in shown and b"MiB" in shown


def test_without_an_endpoint_it_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sandbox_anyio", "cp", "x", "box:y"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1 and "LANGSMITH_ENDPOINT" in done.stderr
