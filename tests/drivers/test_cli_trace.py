"""`sandbox trace` and `sandbox record`, as a person types them; and the page in a real browser."""

from __future__ import annotations

import functools
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from sandbox_anyio import AsyncSandboxClient
from sandbox_anyio.cli import main
from sandbox_anyio.cli.trace_view import page_of
from sandbox_anyio.recording import Recording
from sandbox_anyio.replaying import beside, load_trace
from sandbox_anyio.virtual_network import VirtualNetwork
from sandbox_proto.testing import CommandRun, Drop, Faults, ModelHost, Unavailable, echo
from sandbox_proto.trace.lines import Trace
from sandbox_proto.trace.reexecution import verify
from sandbox_proto.trace.story import tell

from ._chromium import PROGRAM, open_tab

ATTACK = "</script><script>window.hacked = 1</script><img src=http://127.0.0.1:9/ onerror=x>\x1b[2J"


def build(run: CommandRun) -> Iterator[Any]:
    for number in range(1, 9):
        run.write(f"compiling module {number} of 8\n")
        yield run.sleep(0.4)


async def session(path: Path, faults: Faults | None, seed: int = 0) -> None:
    host = ModelHost(seed=seed)
    host.boot_seconds = 0.8
    host.on_command("make", build)
    host.on_command("pytest -q", stdout="3 passed, 1 failed\n", exit_code=1, duration=2.5)
    host.on_port(7, echo)
    network = VirtualNetwork(host, faults=faults, latency=0.012, seed=seed)
    async with (
        AsyncSandboxClient(
            api_endpoint=host.origin,
            api_key=host.api_key,
            trust_env=False,
            network=network,
            record=path,
        ) as client,
        client.sandbox() as sandbox,
    ):
        await sandbox.write("/home/user/Makefile", b"all:\n\tcc main.c\n")
        await sandbox.run("make")
        await sandbox.run("pytest -q")
        async with await sandbox.connect(7) as stream:
            await stream.send(b"hello")
            await stream.receive()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ``plain.jsonl``, ``other.jsonl`` (the same again), and ``trouble.jsonl``:
    a 503, and a connection that is cut amid a command's output."""
    place = tmp_path_factory.mktemp("recordings")
    trouble = Faults(Unavailable(connection=0), Drop(after=460, connection=2))
    anyio.run(session, place / "plain.jsonl", None)
    anyio.run(session, place / "other.jsonl", None, 7)
    anyio.run(session, place / "trouble.jsonl", trouble)
    assert set(trouble.struck) == {"unavailable", "drop"}
    return place


@pytest.fixture
def sandbox(
    capfd: pytest.CaptureFixture[str], recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process: its status, output and errors."""
    monkeypatch.chdir(recordings)

    def typed(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        status = ended.value.code
        assert isinstance(status, int)
        return status, out, err

    return typed


Sandbox = Callable[..., tuple[int, str, str]]


# --- show -----------------------------------------------------------------------------


def test_show_tells_what_happened(sandbox: Sandbox) -> None:
    status, out, err = sandbox("trace", "show", "trouble.jsonl")
    assert (status, err) == (0, "")
    told = [line.split(maxsplit=2) for line in out.splitlines() if line]
    lines = {(actor, text) for _, actor, text in told}
    for actor, text in (
        ("flow-1", "POST /boxes -> 503 (84 bytes, 48 ms)"),
        ("command-1", "run: make"),
        ("command-1", "exits with 0"),
        ("command-2", "exits with 1"),
        ("tunnel-1/1", "-> 5 bytes: hello"),
    ):
        assert (actor, text) in lines
    assert re.search(r"flow-1 +tries again in 1\.\d\d s: 503 to POST /boxes\n", out)
    assert re.search(r"command-1 +attaches again in 500 ms: the connection was lost", out)
    assert re.search(r"stdout 96 bytes in 4 pieces: compiling module 1 of 8\\ncomp", out)
    assert "frame" not in out and "\x1b" not in out
    assert re.fullmatch(
        r"http://model, .* s: 7 operations, 1 retry, 1 reconnect", out.splitlines()[-1]
    )
    times = [float(time) for time, _, _ in told[:-1]]
    assert times == sorted(times)


def test_show_frames_actors_and_json(sandbox: Sandbox) -> None:
    _, out, _ = sandbox("trace", "show", "--frames", "--actor", "command-2", "plain.jsonl")
    assert "-> text" in out and "<- text" in out and '"command":"pytest -q"' in out
    assert "command-1" not in out and "deadline" not in out
    _, out, _ = sandbox("trace", "show", "-v", "--actor", "command", "plain.jsonl")
    assert (
        "wants to be woken in" in out
        and "command-1" in out
        and "flow" not in out.rpartition("\n\n")[0]
    )
    _, out, _ = sandbox("trace", "show", "--json", "trouble.jsonl")
    events = [json.loads(line) for line in out.splitlines()]
    [retry] = [event for event in events if event["kind"] == "wait"]
    assert (retry["mood"], retry["actor"]) == ("odd", "flow-1")
    status, _, err = sandbox("trace", "show", "--actor", "command-9", "plain.jsonl")
    assert status == 2
    assert err.startswith(
        "sandbox: plain.jsonl has no actor 'command-9'; it has: command-1, command-2"
    )


def test_show_is_coloured_on_a_terminal_and_ends_with_its_reader(recordings: Path) -> None:
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    command = [
        sys.executable,
        "-m",
        "sandbox_anyio",
        "trace",
        "show",
        str(recordings / "trouble.jsonl"),
    ]
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, env=environment, stdout=theirs) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # how a terminal ends
                break
        assert process.wait() == 0
    os.close(ours)
    assert b"\x1b[1;31mPOST /boxes -> 503" in re.sub(rb"m +", b"m", shown)
    piped = f"{' '.join(command)} --frames -v | head -1"
    done = subprocess.run(piped, shell=True, capture_output=True, check=True, text=True)
    assert "create sandbox" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "x.jsonl cannot be read: No such file or directory"),
        ("hello", "x.jsonl: line 1 is not JSON"),
        ("", "x.jsonl: this is no trace"),
        (
            '{"sandbox-trace": 9}',
            "x.jsonl: this trace has version 9, and this code reads version 1",
        ),
        ("\udcff", "x.jsonl: this is no trace: it is not text in UTF-8"),
        (
            '{"sandbox-trace": 1}\n{"at": NaN, "actor": "a"}',
            "x.jsonl: line 2 is no line of a trace",
        ),
    ],
    ids=["missing", "text", "empty", "version", "bytes", "not a number"],
)
def test_what_is_no_trace_is_told_by_name(
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str | None,
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("x.jsonl").write_text(content, errors="surrogateescape")
    for action in (["show", "x.jsonl"], ["verify", "x.jsonl"], ["diff", "x.jsonl", "x.jsonl"]):
        status, out, err = sandbox("trace", *action)
        assert (status, out) == (2, "")
        assert err.startswith(f"sandbox: {complaint}")
        assert err.count("\n") == 1


# --- diff, verify ---------------------------------------------------------------------


def test_diff_of_the_same_and_of_different(sandbox: Sandbox) -> None:
    assert sandbox("trace", "diff", "plain.jsonl", "other.jsonl") == (0, "both do the same\n", "")
    status, out, _ = sandbox("trace", "diff", "plain.jsonl", "trouble.jsonl")
    assert status == 1
    assert out.startswith("--- A: plain.jsonl\n+++ B: trouble.jsonl\n\ncreate sandbox <name>\n")
    assert "  + POST /boxes -> 503\n" in out
    assert "  + tries again: 503 to POST /boxes\n" in out
    assert "\nrun: make\n  + reconnects: the connection was lost" in out
    assert "stdout" not in out, "for the output is the same"
    assert sandbox("trace", "diff", "--quiet", "trouble.jsonl", "plain.jsonl") == (1, "", "")


def test_verify_tells_what_holds_and_what_does_not(sandbox: Sandbox, recordings: Path) -> None:
    status, out, err = sandbox("trace", "verify", "plain.jsonl", "trouble.jsonl")
    assert (status, err) == (0, "")
    assert re.fullmatch(r"(\S+: \d+ steps of \d+ actors, all as recorded\n){2}", out)
    assert sandbox("trace", "verify", "--quiet", "plain.jsonl") == (0, "", "")
    text = (recordings / "trouble.jsonl").read_text()
    number = next(i for i, line in enumerate(text.splitlines(), 1) if "Reattaching" in line)
    head, mark, tail = text.rpartition('"delay": 0.5')
    (recordings / "edited.jsonl").write_text(f"{head}{mark.replace('5', '6')}{tail}")
    status, out, err = sandbox("trace", "verify", "--quiet", "plain.jsonl", "edited.jsonl")
    assert (status, out) == (1, "")
    first, recorded, now, advice = err.splitlines()
    assert first.startswith(
        f"sandbox: edited.jsonl is not what this code does: line {number}, actor command-1, at "
        "'connection_lost' ("
    )
    assert recorded.startswith("  recorded: event") and recorded.endswith('"delay": 0.6}')
    assert now.startswith("  now:      event") and now.endswith('"delay": 0.5}')
    assert "record it anew" in advice
    assert sandbox("trace", "verify", "edited.jsonl", "nowhere.jsonl")[0] == 2


def test_verify_tells_what_no_trace_can_hold(sandbox: Sandbox, recordings: Path) -> None:
    lines = (recordings / "plain.jsonl").read_text().splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if '"new": "flows.files' in line)
    made = json.loads(lines[place])
    lines[place] = json.dumps({**made, "with": {"not recorded": "<f> is not of the core"}}) + "\n"
    (recordings / "hidden.jsonl").write_text("".join(lines))
    _, out, _ = sandbox("trace", "verify", "hidden.jsonl")
    assert out.endswith("\n  not done again: flow-2: <f> is not of the core\n")


# --- record ---------------------------------------------------------------------------

PROGRAM_TEXT = """
import sys, anyio
from sandbox_anyio import AsyncSandboxClient
from sandbox_anyio.virtual_network import VirtualNetwork
from sandbox_proto.testing import ModelHost
async def main():
    for name in ("one", "two"):
        host = ModelHost()
        host.on_command("login hunter22", stdout="x" * 20000)
        async with AsyncSandboxClient(api_endpoint=host.origin, api_key=host.api_key,
                                      trust_env=False, network=VirtualNetwork(host)) as client:
            async with client.sandbox(name=name) as sandbox:
                await sandbox.run("login hunter22")
                await sandbox.write("/f", b"y" * 20000)
anyio.run(main)
sys.exit(3)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    (tmp_path / "program.py").write_text(PROGRAM_TEXT)
    return tmp_path


def test_record_runs_a_program_and_tells_what_was_written(
    sandbox: Sandbox, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    command = [
        "--redact",
        "hunter[0-9]+",
        "--beside",
        "new/a.jsonl",
        "--",
        sys.executable,
        "program.py",
    ]
    status, out, err = sandbox("record", *command)
    assert (status, out) == (3, "")
    assert re.fullmatch(
        r"sandbox: recorded new/a\.jsonl \(.* KiB\), new/a-2\.jsonl \(.* KiB\); "
        r"`sandbox trace show new/a\.jsonl` tells it\n",
        err,
    )
    for name in ("a.jsonl", "a-2.jsonl"):
        path = here / "new" / name
        assert "hunter" not in path.read_text()
        assert "run: login ********" in sandbox("trace", "show", path)[1]
        assert list(path.with_name(name + ".d").iterdir()), "large bodies are beside it"
        assert verify(load_trace(path), beside(path)).difference is None
    status, _, err = sandbox("record", "new/a.jsonl", "true")
    assert status == 1
    assert err.startswith("sandbox: new/a.jsonl exists already; --replace replaces a recording")
    (here / "new" / "a-3.jsonl").write_text("my notes")
    status, _, err = sandbox("record", "--replace", "new/a.jsonl", "--", "sh", "-c", "kill -9 $$")
    assert status == 128 + signal.SIGKILL
    assert err.startswith("sandbox: nothing was recorded: the program made no client")
    assert [path.name for path in (here / "new").iterdir()] == ["a-3.jsonl"]


def test_record_says_what_cannot_be_run(sandbox: Sandbox, here: Path) -> None:
    status, _, err = sandbox("record", here / "a.jsonl", "no-such-program-anywhere")
    assert status == 127
    assert err.startswith("sandbox: there is no command 'no-such-program-anywhere'\n")
    status, _, err = sandbox("record", here / "a.jsonl", here / "program.py")
    assert status == 126
    assert "program.py' cannot be run: Permission denied" in err
    for command in ([], ["--"], ["--beside", "--", "true"]):
        status, _, err = sandbox("record", here / "a.jsonl", *command)
        assert (status, err.count("\n")) == (2, 1)
    assert "options go before FILE" in err
    status, _, err = sandbox("record", "--redact", "(", here / "a.jsonl", "true")
    assert status == 2
    assert "'(' is no regular expression" in err


def test_a_command_may_have_marks_of_its_own(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    show = "import sys; print(sys.argv[1:])"
    for marks in (["--"], []):
        with pytest.raises(SystemExit):
            main(["record", str(here / "a.jsonl"), *marks, sys.executable, "-c", show, "--", "-x"])
        assert capfd.readouterr().out == "['--', '-x']\n"


def test_a_program_that_is_told_to_end_is_told_so(here: Path) -> None:
    """A signal to `sandbox record` goes to the program; its status comes back."""
    program = "import signal, sys, time\n"
    program += "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\nprint(1, flush=True)\n"
    program += "while True: time.sleep(1)"
    command = ["record", str(here / "a.jsonl"), "--", sys.executable, "-c", program]
    with subprocess.Popen(
        [sys.executable, "-m", "sandbox_anyio", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 9


def test_each_client_gets_a_file_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.jsonl"
    settings = {"SANDBOX_RECORD": str(path), "SANDBOX_RECORD_REDACT": "a|b\n\\d+"}
    settings |= {"SANDBOX_RECORD_REDACT_HEADERS": "X-Mine", "SANDBOX_RECORD_BESIDE": "0"}
    made = [Recording.from_env(settings) for _ in range(3)]
    assert [one.path.name for one in made] == ["x.jsonl", "x-2.jsonl", "x-3.jsonl"]
    assert made[0] == Recording(path=path, redact=["a|b", "\\d+"], redact_headers=["X-Mine"])
    assert Recording.from_env({"SANDBOX_RECORD": str(path), "SANDBOX_RECORD_BESIDE": "1"}).beside


def test_content_beside_a_trace_is_not_taken_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "x.jsonl.d").mkdir()
    with pytest.raises(ValueError, match="no SHA-256"):
        beside(tmp_path / "x.jsonl")("../secret")
    line = {"at": 0, "actor": "http-1", "call": "receive_data"}
    line["with"] = {"data": {"beside": "../secret", "length": 4}}
    trace = Trace.parse(['{"sandbox-trace": 1}', json.dumps(line)])
    assert "mine" not in page_of(trace, tell(trace, beside(tmp_path / "x.jsonl")), "x")


# --- the page -------------------------------------------------------------------------


def attacked(recordings: Path) -> None:
    """A trace with strings in it that would be markup, code or a request if they were let."""
    text = (recordings / "trouble.jsonl").read_text()
    escaped = json.dumps(ATTACK)[1:-1]
    text = text.replace("Makefile", escaped).replace("compiling module", escaped)
    (recordings / "attack.jsonl").write_text(
        text.replace('"actor": "command-2"', f'"actor": "command-{escaped}"')
    )


def test_the_page_is_written_where_it_is_asked_for(sandbox: Sandbox, recordings: Path) -> None:
    assert sandbox("trace", "view", "plain.jsonl") == (0, "plain.html\n", "")
    page = (recordings / "plain.html").read_text()
    assert sandbox("trace", "view", "plain.jsonl", "-o", "-") == (0, page, "")
    assert not re.search(r"\b(src|href)=", page.partition("<script")[0])
    attacked(recordings)
    _, page, _ = sandbox("trace", "view", "attack.jsonl", "-o", "-")
    assert "window.hacked" in page
    assert page.count("<script") == page.count("</script") == 2
    assert "<img" not in page


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # what is tested runs in the browser
@pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium here: apt install chromium")
async def test_the_page_in_a_browser(recordings: Path, tmp_path: Path) -> None:
    attacked(recordings)
    trace = load_trace(recordings / "attack.jsonl")
    page = tmp_path / "page.html"
    page.write_text(page_of(trace, tell(trace), ATTACK))
    async with open_tab(tmp_path / "profile") as tab:
        await tab.call("Log.enable")
        await tab.open(page.as_uri(), arriving_at="page.html")
        seen = functools.partial(see, tab)
        assert await seen("document.documentElement.dataset.ready") == "yes"
        assert (await seen("document.title")).startswith("</script><script>window.hacked")
        assert await seen(
            "[...document.querySelectorAll('#chips button')].map(e => e.innerText)"
        ) == [
            "1 ✖ failed request",
            "1 ↻ retry",
            "1 ⟲ reconnect",
        ]
        first = await seen(
            "document.querySelector('#rows .row').innerText.split('\\n').slice(0, 2)"
        )
        assert first == ["0.000", "flow-1"]
        await press(tab, "n")
        assert (await seen("document.querySelector('#details h2').innerText")).startswith(
            "POST /boxes -> 503"
        )
        assert '"the service is unavailable"' in await seen(
            "document.querySelector('#details').innerText"
        )
        await press(tab, "n", "n")
        assert (await seen("document.querySelector('#details h2').innerText")).startswith(
            "attaches again in 500 ms"
        )
        assert "line " in await seen("document.querySelector('#details').innerText")
        main_rows = await seen("state.shown.length")
        await press(tab, "f")
        assert await seen("state.shown.length") > main_rows + 20
        assert int(await seen("canvas.dataset.drawn")) > 50
        await press(tab, "/")
        await tab.call("Input.insertText", text="exits with")
        assert await seen("state.shown.map(event => event.summary)") == [
            "exits with 0",
            "exits with 1",
        ]
        await press(tab, "Escape", "End")
        assert await seen("document.querySelector('[aria-selected=true] .what').innerText")
        before = await seen("view.scale")
        await press(tab, "+")
        assert await seen("view.scale") > before
        await press(tab, "0")
        await tab.picture(tmp_path / "page.png")
        assert [request["url"] for request in tab.requests()] == [page.as_uri()]
        troubles = {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"}
        assert not [event for event in tab.events if event["method"] in troubles]
        assert await seen("window.hacked === undefined && !document.querySelector('img')")
        # Even if something got through, the page would not run it, nor ask anybody.
        evil = "Object.assign(document.createElement('script'), {text: 'window.hacked = 1'})"
        await seen(f"document.body.append({evil})")
        await seen("fetch('http://127.0.0.1:9/').catch(() => 0)")
        assert await seen("window.hacked === undefined")
        refused = [
            event["params"]["entry"]["text"]
            for event in tab.events
            if event["method"] == "Log.entryAdded"
        ]
        assert any("inline script violates" in text for text in refused)
        assert any("Refused to connect" in text for text in refused)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # what is tested runs in the browser
@pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium here: apt install chromium")
async def test_the_page_of_a_long_trace_holds_little_at_a_time(
    recordings: Path, tmp_path: Path, sweep: int
) -> None:
    trace = repeated(load_trace(recordings / "trouble.jsonl"), 80 * sweep)
    page = tmp_path / "page.html"
    page.write_text(page_of(trace, tell(trace), "long"))
    async with open_tab(tmp_path / "profile") as tab:
        await tab.open(page.as_uri(), arriving_at="page.html")
        seen = functools.partial(see, tab)
        assert len(await seen("state.shown.map(event => event.index)")) > 3000 * sweep
        await press(tab, "f", "End")
        assert await seen("document.querySelectorAll('*').length") < 600
        assert await seen("list.scrollTop > 0 && ROWS.length < 40")
        assert float(await seen("canvas.dataset.took")) < 1000


def repeated(trace: Trace, times: int) -> Trace:
    """A longer trace: the same again and again, by other actors, later."""
    lines = []
    length = trace.lines[-1].at + 1
    for turn in range(times):
        for line in trace.lines:
            kind, _, number = line.actor.partition("-")
            actor = f"{kind}-{turn * 10 + int(number)}" if number else kind
            lines.append(
                type(line)(
                    actor,
                    line.at + turn * length,
                    line.call,
                    line.made,
                    line.given,
                    line.then,
                    len(lines) + 2,
                )
            )
    return Trace(trace.header, lines)


async def see(tab: Any, script: str) -> Any:
    """What the page has, after it has drawn what it is about to draw."""
    frames = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    return await tab.evaluate(f"{frames}.then(() => ({script}))")


async def press(tab: Any, *keys: str) -> None:
    for key in keys:
        await tab.call("Input.dispatchKeyEvent", type="keyDown", key=key)
        await tab.call("Input.dispatchKeyEvent", type="keyUp", key=key)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["trace", "show"],
        ["trace", "diff"],
        ["trace", "verify"],
        ["trace", "view"],
        ["record"],
    ):
        with pytest.raises(SystemExit):
            main([*arguments, "--help"])
        assert f"examples:\n  sandbox {' '.join(arguments)} " in capsys.readouterr().out
