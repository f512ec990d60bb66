"""A trace told to people: what matters is there, in words that anybody may read."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_proto.trace import story_events
from sandbox_proto.trace.diff import compare
from sandbox_proto.trace.lines import Line, Trace
from sandbox_proto.trace.reexecution import verify
from sandbox_proto.trace.story import Level, Mood, Story, condensed, headline, tell
from sandbox_proto.trace.story_words import (
    content,
    duration,
    excerpt,
    printable,
    raw_bytes,
    size,
    target_of,
)

from ._traces import Script, busy, chunk, event, frame, perform, wait

FORMAT = Path(story_events.__file__).with_name("FORMAT.md")


def main(story: Story, actor: str | None = None) -> list[tuple[str, str, str]]:
    """What everybody is told, without the operations themselves."""
    return [
        (event.kind, event.mood.value, event.summary)
        for event in story.events
        if event.level is Level.MAIN and event.kind != "operation" and actor in (None, event.actor)
    ]


def operations(story: Story) -> list[tuple[str, str]]:
    return [(event.summary, event.mood.value) for event in story.events if _is_whole(event)]


def _is_whole(event: Any) -> bool:
    return bool(event.kind == "operation")


# --- flows ----------------------------------------------------------------------------


def test_a_retry_has_its_reason_and_how_long_it_waits() -> None:
    script = Script()
    asked = perform("POST", "/boxes")
    script.flow(
        "flow-1", "flows.files.write_file", {"path": "/a", "content": {"text": "abc"}}, asked
    )
    script.answered("flow-1", 503, wait(1.25), body="busy")
    script.now = 1.25
    script.woke("flow-1", asked)
    script.answered("flow-1", 201, {"returned": None}, body="made")
    story = tell(script.trace())
    assert main(story) == [
        ("request", "bad", "POST /boxes -> 503 (4 bytes, 10 ms)"),
        ("wait", "odd", "tries again in 1.24 s: 503 to POST /boxes"),
        ("request", "", "POST /boxes -> 201 (4 bytes, 10 ms)"),
    ]
    assert operations(story) == [("write file /a (3 bytes)", "good")]
    [whole] = filter(_is_whole, story.events)
    assert (whole.at, whole.until) == (0.0, 1.26)
    assert headline(story) == "http://127.0.0.1:4000, 1.26 s: 1 operation, 1 retry"


def test_polling_is_no_retry_and_a_fault_is_a_reason() -> None:
    script = Script()
    asked = perform("GET", "/boxes/a")
    script.flow("flow-1", "flows.sandboxes.wait_for_sandbox", {"name": "a"}, asked)
    script.answered("flow-1", 200, wait(0.5))
    script.now = 0.5
    script.woke("flow-1", asked)
    script.broke("flow-1", "cannot connect", wait(0.5))
    error = {"type": "errors.SandboxConnectionError", "message": "no\x1b[31mred"}
    script.woke("flow-1", {"raised": error})
    assert main(tell(script.trace())) == [
        ("request", "", "GET /boxes/a -> 200 (10 ms)"),
        ("wait", "", "looks again in 490 ms"),
        ("request", "bad", "GET /boxes/a -> cannot connect (10 ms)"),
        ("wait", "odd", "tries again at once: cannot connect"),
        ("trouble", "bad", "fails with SandboxConnectionError: no\\x1b[31mred"),
    ]


def test_a_flow_that_is_given_up_or_not_ended() -> None:
    script = Script()
    script.flow("flow-1", "flows.files.read_file", {"path": "/a"}, perform("GET", "/a"))
    script.flow("flow-2", "flows.files.read_file", {"path": "/b"}, perform("GET", "/b"))
    script.add("flow-1", "close")
    story = tell(script.trace())
    assert [outcome for _, outcome in operations(story)] == ["odd", ""]
    assert main(story, "flow-2") == [
        ("request", "odd", "GET /b -> no answer in this recording (10 ms)")
    ]
    assert ("trouble", "odd", "was given up by the program") in main(story, "flow-1")


def test_a_request_and_the_connection_that_carries_it_are_told_of_each_other() -> None:
    script = Script()
    asked = perform("GET", "/boxes?x=%2Ftmp%2Fa", "")
    script.flow("flow-1", "flows.files.read_file", {"path": "/a"}, asked)
    script.add("http-1", "new machines.http1.Http1Client")
    script.exchange("http-1", "GET", "/boxes?x=%2Ftmp%2Fa", 200, b'{"a": [1, 2]}')
    script.answered("flow-1", 200, {"returned": None})
    story = tell(script.trace())
    [told] = [event for event in story.events if event.kind == "request"]
    assert told.summary == "GET /boxes?x=/tmp/a -> 200 (13 bytes, 50 ms)"
    assert told.details["connection"] == "http-1"
    assert told.details["response body"] == {"a": [1, 2]}
    assert told.lines == [2, 4, 5, 6, 7]
    [carried] = [event for event in story.events if event.kind == "exchange"]
    assert (carried.level, carried.summary) == (
        Level.FRAMES,
        "GET /boxes?x=/tmp/a -> 200 (13 bytes, 20 ms)",
    )


# --- commands -------------------------------------------------------------------------


def command() -> Script:
    script = Script()
    script.command("command-1", "make all")
    script.output("command-1", "one\n", "two\n")
    lost = {"type": "faults.Fault", "message": "cut"}
    again = event("exec_events.Reattaching", reason="cut", delay=0.5)
    script.add("command-1", "connection_lost", {"fault": lost}, again)
    script.now += 0.5
    script.attach("command-1")
    script.output("command-1", "three\n")
    script.output("command-1", "oops\n", stream="stderr")
    script.add("command-1", "send_input", {"data": "yes"})
    script.add("command-1", "kill")
    script.exit("command-1", 137)
    return script


def test_a_command_from_its_start_over_a_cut_to_its_end() -> None:
    story = tell(command().trace())
    assert main(story) == [
        ("attach", "", "attaches: GET /v2/sandboxes/a/execute/ws -> 101 (10 ms)"),
        ("started", "", "runs, pid 4"),
        ("output", "", "stdout 4 bytes: one\\n"),
        ("output", "", "stdout 4 bytes: two\\n"),
        ("reconnect", "odd", "attaches again in 500 ms: cut"),
        ("attach", "odd", "attaches again: GET /v2/sandboxes/a/execute/ws -> 101 (10 ms)"),
        ("output", "", "stdout 6 bytes: three\\n"),
        ("output", "odd", "stderr 5 bytes: oops\\n"),
        ("input", "", "stdin 3 bytes: yes"),
        ("input", "odd", "kills it"),
        ("exit", "odd", "exits with 137"),
    ]
    assert operations(story) == [("run: make all", "odd")]
    assert headline(story).endswith("1 operation, 1 reconnect")


def test_output_in_one_go_is_told_once() -> None:
    story = tell(command().trace())
    shown = [event for event in story.events if event.level is Level.MAIN]
    texts = [event.summary for event in condensed(shown) if event.kind == "output"]
    assert texts == [
        "stdout 8 bytes in 2 pieces: one\\ntwo\\n",
        "stdout 6 bytes: three\\n",
        "stderr 5 bytes: oops\\n",
    ]
    assert len([event for event in shown if event.kind == "output"]) == 4, (
        "the story is left as it is"
    )


def test_much_output_is_told_in_little() -> None:
    script = Script()
    script.command("command-1", "yes")
    script.output("command-1", *["y\n" * 50] * 2000)
    [told] = [event for event in condensed(tell(script.trace()).events) if event.kind == "output"]
    assert told.summary.startswith("stdout 195.3 KiB in 2000 pieces: y\\ny\\n")
    assert len(told.summary) < 120
    assert len(told.lines) == 2000


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 50, 1000])
def test_frames_are_found_wherever_the_stream_is_cut(piece: int) -> None:
    script = Script()
    script.add("command-1", "new flows.commands.start_command", {"spec": {"command": "x"}})
    script.add("command-1", "connected")
    heard = (
        b"HTTP/1.1 101 \r\n\r\n" + frame(b"hello") + frame(b"x" * 300) + frame(b"\x03\xe8bye", 8)
    )
    for start in range(0, len(heard), piece):
        script.heard("command-1", heard[start : start + piece])
    story = tell(script.trace())
    assert [event.summary for event in story.events if event.kind == "frame"] == [
        "<- text 5 bytes: hello",
        f"<- text 300 bytes: {'x' * 100}...",
        "<- close 5 bytes: 1000 bye",
    ]


def test_frames_after_content_that_is_missing_are_not_guessed() -> None:
    script = Script()
    script.add("command-1", "new flows.commands.start_command", {"spec": {"command": "x"}})
    script.attach("command-1")
    digest = "ab" * 32
    script.add("command-1", "receive_data", {"data": {"beside": digest, "length": 20000}})
    script.heard("command-1", frame(b"hello"))
    kinds = [event.kind for event in tell(script.trace()).events]
    assert kinds.count("frame") == 0
    kept = {digest: frame(b"y" * 10)}
    found = [event.kind for event in tell(script.trace(), kept.__getitem__).events]
    assert found.count("frame") == 2


# --- tunnels and WebSockets -----------------------------------------------------------


def test_streams_of_a_tunnel_have_lanes_of_their_own() -> None:
    script = Script()
    made = "new machines.tunnel_session.TunnelSession"
    script.add("tunnel-1", made, {"base": "http://a/v2/sandboxes/b"})
    script.attach("tunnel-1")
    script.add("tunnel-1", None, None, event("tunnel_session.SessionOpened"))
    script.add("tunnel-1", "open", {"port": 80}, {"gave": 1})
    script.add("tunnel-1", None, None, event("tunnel_session.StreamConnected", stream=1))
    script.add("tunnel-1", "open", {"port": 81}, {"gave": 3})
    error = {"type": "errors.TunnelError", "message": "nobody listens"}
    refused = event("tunnel_session.StreamRefused", stream=3, error=error)
    script.add("tunnel-1", None, None, refused)
    script.add("tunnel-1", "send", {"stream": 1, "data": {"text": "hello!"}}, {"gave": 5})
    script.add(
        "tunnel-1", None, None, event("yamux_events.StreamData", stream=1, data={"text": "hi"})
    )
    script.add("tunnel-1", "close_stream", {"stream": 1})
    story = tell(script.trace())
    assert [lane.name for lane in story.lanes] == ["tunnel-1", "tunnel-1/1", "tunnel-1/3"]
    told = [
        event.summary
        for event in story.events
        if event.lane == "tunnel-1/1" and not _is_whole(event)
    ]
    assert told == ["the port answers", "-> 5 bytes: hello", "<- 2 bytes: hi", "closes it"]
    assert ("trouble", "bad", "the port does not answer: nobody listens") in main(story)
    assert operations(story)[1:] == [
        ("stream 1 to port 80", "good"),
        ("stream 3 to port 81", "bad"),
    ]


def test_a_websocket_and_its_messages() -> None:
    script = Script()
    url = {"origin": {"host": "a", "port": 443}, "target": "/ws"}
    script.add("websocket-1", "new machines.ws_client.WebSocketClient", {"url": url})
    script.add("websocket-1", "send_text", {"text": "ping"})
    script.add("websocket-1", None, None, event("websocket.Message", data="pong"))
    script.add("websocket-1", None, None, event("websocket.Closed", code=1011, reason="oops"))
    story = tell(script.trace())
    assert [summary for _, _, summary in main(story)] == [
        "-> 4 bytes: ping",
        "<- 4 bytes: pong",
        "closed by the host: 1011 oops",
    ]
    assert operations(story) == [("WebSocket a:443/ws", "odd")]


def test_connections_that_cannot_be_had() -> None:
    script = Script()
    script.now = 2.0
    given = {"origin": "http://a", "took": 1.5}
    script.add("network", "connect", given, {"connected": True})
    script.add("network", "connect", given, {"fault": {"message": "refused"}})
    story = tell(script.trace())
    assert main(story) == [
        ("connect", "", "connects to http://a (1.50 s)"),
        ("connect", "bad", "cannot connect to http://a: refused (1.50 s)"),
    ]
    assert [(event.at, event.until) for event in story.events] == [
        (0.5, 2.0),
        (pytest.approx(0.51), 2.01),
    ]


# --- whatever is in it ----------------------------------------------------------------

ATTACK = "\x1b]0;title\x07\u202e</script><script>alert(1)</script>\r\n\x9b2J"


def attacked() -> Trace:
    script = Script(ATTACK)
    script.flow(
        "flow-1", "flows.files.read_file", {"path": ATTACK}, perform(ATTACK, ATTACK, ATTACK)
    )
    script.broke("flow-1", ATTACK, {"raised": {"type": ATTACK, "message": ATTACK}})
    script.command("command-1", ATTACK)
    script.output("command-1", ATTACK)
    script.add("command-1", None, None, event("exec_events.Reattaching", reason=ATTACK, delay=1))
    script.add("command-1", None, None, event(ATTACK, stream=ATTACK), chunk(ATTACK, ATTACK))
    script.add(f"machine-{ATTACK}", f"new {ATTACK}", {ATTACK: ATTACK})
    script.add(f"tunnel-{ATTACK}", ATTACK, {"stream": ATTACK}, {ATTACK: ATTACK})
    script.add("network", "connect", {"origin": ATTACK}, {"fault": {"message": ATTACK}})
    return script.trace()


def test_what_is_printed_does_nothing_but_be_read() -> None:
    story = tell(attacked())
    told = [story.endpoint, headline(story)]
    told += [text for lane in story.lanes for text in (lane.name, lane.title)]
    told += [text for event in story.events for text in (event.summary, event.lane, event.actor)]
    assert len(told) > 30
    assert all(map(str.isprintable, told))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-10, 1000)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "a", "stdout", "\x1b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "data",
                    "text",
                    "latin1",
                    "base64",
                    "beside",
                    "head",
                    "length",
                    "stream",
                    "event",
                    "error",
                    "fault",
                    "message",
                    "request",
                    "url",
                    "target",
                    "method",
                    "headers",
                    "body",
                    "response",
                    "status",
                    "outcome",
                    "when",
                    "port",
                    "frame",
                    "spec",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
TYPES = [
    "Perform",
    "WaitUntil",
    "Answered",
    "Broke",
    "Woke",
    "ResponseHead",
    "BodyData",
    "ExchangeDone",
    "ExchangeFailed",
    "CommandStarted",
    "OutputChunk",
    "OutputLost",
    "Reattaching",
    "CommandExited",
    "CommandFailed",
    "SessionOpened",
    "StreamConnected",
    "StreamRefused",
    "StreamData",
    "StreamEnded",
    "StreamReset",
    "SessionEnded",
    "Message",
    "Closed",
    "Failed",
    "Opened",
]
CALLS = [
    "send",
    "close",
    "connect",
    "connected",
    "receive_data",
    "receive_eof",
    "connection_lost",
    "send_request",
    "send_input",
    "open",
    "send_eof",
    "close_stream",
    "reset",
    "send_text",
    "send_body",
    "handle_timeout",
]
TYPED = st.builds(
    lambda name, rest: {**(rest if isinstance(rest, dict) else {}), "type": f"a.{name}"},
    st.sampled_from(TYPES),
    JSON,
)
GIVEN = st.dictionaries(
    st.sampled_from(
        [
            "data",
            "request",
            "outcome",
            "fault",
            "port",
            "stream",
            "spec",
            "base",
            "url",
            "origin",
            "took",
        ]
    ),
    JSON | TYPED,
    max_size=3,
)
THEN = st.lists(
    st.builds(
        lambda what, value: {what: value},
        st.sampled_from(
            [
                "event",
                "send",
                "deadline",
                "gave",
                "raised",
                "effect",
                "returned",
                "fault",
                "connected",
            ]
        ),
        JSON | TYPED | st.lists(JSON, max_size=2),
    ),
    max_size=3,
)
LINES = st.lists(
    st.builds(
        lambda actor, call, made, given, then: Line(
            actor, 1.0, "new" if made else call, made, given, then, 2
        ),
        st.sampled_from(
            [
                "network",
                "flow-1",
                "http-1",
                "command-1",
                "tunnel-1",
                "websocket-1",
                "machine-1",
                "x",
            ]
        ),
        st.none() | st.sampled_from(CALLS),
        st.none() | st.just("flows.commands.start_command"),
        GIVEN,
        THEN,
    ),
    max_size=8,
)


@given(lines=LINES, header=JSON)
def test_whatever_stands_in_a_trace_it_can_be_told(lines: list[Line], header: Any) -> None:
    story = tell(Trace({"sandbox-trace": 1, "config": header}, lines))
    for told in condensed(story.events):
        told.to_data()
    headline(story)


STRANGE = [None, True, -1, 3.5, 1e999, "", {}, [], "x", [[]], {"type": "a.b"}, {"text": "a"}]
STRANGE += [{"head": 1}, {"length": "x"}, {"beside": 5}, {"base64": "%"}]


def changed(data: Any, chance: random.Random, rate: float) -> Any:
    if chance.random() < rate:
        return chance.choice(STRANGE)
    if isinstance(data, dict):
        return {key: changed(value, chance, rate) for key, value in data.items()}
    if isinstance(data, list):
        return [changed(value, chance, rate) for value in data]
    return data


def test_a_trace_in_which_values_were_changed_can_be_told(sweep: int) -> None:
    whole = [*example().lines, *busy().trace().lines]
    for seed in range(100 * sweep):
        chance = random.Random(seed)
        lines = [
            attrs.evolve(
                line,
                given={key: changed(value, chance, 0.02) for key, value in line.given.items()},
                then=[
                    {key: changed(value, chance, 0.02) for key, value in item.items()}
                    for item in line.then
                ],
            )
            for line in whole
        ]
        story = tell(Trace({}, lines))
        condensed(story.events)
        compare(story, tell(Trace({}, whole)))


# --- words ----------------------------------------------------------------------------


def test_words_for_people() -> None:
    assert [duration(seconds) for seconds in (0, 0.00034, 0.0321, 1.2, 63, 3721)] == [
        "0.0 ms",
        "0.3 ms",
        "32 ms",
        "1.20 s",
        "1 min 3 s",
        "1 h 2 min",
    ]
    assert [size(count) for count in (0, 1, 1023, 1536, 3 << 20, 5 << 40)] == [
        "0 bytes",
        "1 byte",
        "1023 bytes",
        "1.5 KiB",
        "3.0 MiB",
        "5120.0 GiB",
    ]
    assert excerpt("a" * 100, 5) == "aaaaa..."
    assert printable("é\u202ex\ty") == "é\\u202ex\\ty"
    assert target_of("/v2/sandboxes/79ff63a3-ac36-4b0c-b2b9-e66e095255de/a?p=%2F") == (
        "/v2/sandboxes/79ff63a3../a?p=/"
    )


def test_bodies_for_people() -> None:
    assert content(b'{"a": 1}', 8) == {"a": 1}
    assert content(b"{a", 2) == "{a"
    assert content(b"\xff\x00", 2) == {"bytes": 2, "hex": "ff 00"}
    assert content(None, 5, "ab") == {"bytes": 5, "sha256": "ab"}
    assert content(b"[" * 50_000, 50_000) == "[" * 50_000, "too deep is text"


def test_contents_beside_are_asked_for_and_may_be_missing() -> None:
    def missing(name: str) -> bytes:
        raise FileNotFoundError(name)

    assert raw_bytes({"beside": "x", "length": 3}, lambda name: b"abc") == b"abc"
    assert raw_bytes({"beside": "x", "length": 3}, missing) is None
    assert raw_bytes({"base64": "%"}) is None


# --- the page about the format --------------------------------------------------------


def example() -> Trace:
    [text] = re.findall(r"```json\n(.*?)```", FORMAT.read_text(), re.DOTALL)
    return Trace.parse(text.splitlines())


def test_the_example_in_the_description_of_the_format_is_a_trace() -> None:
    trace = example()
    report = verify(trace)
    assert report.difference is None
    assert (report.steps, report.actors) == (4, 1)
    assert [
        event.summary for event in tell(trace).events if event.kind in ("connect", "exchange")
    ] == [
        "connects to http://127.0.0.1:8080 (0.4 ms)",
        "DELETE /boxes/a -> 204 No Content (20 ms)",
    ]


def test_the_description_of_the_format_names_what_lines_and_values_are_made_of() -> None:
    text = FORMAT.read_text()
    words = {f"`{word}`" for word in re.findall(r'data\["(\w+)"\]', _source("lines.py"))}
    assert len(words) == 4
    words |= {f"`{kind}`" for kind in re.findall(r': "(\w+)",\n', _source("recorder.py"))}
    words |= {f'"type": "{kind}"' for kind in re.findall(r'"type": "(\w+)"', _source("values.py"))}
    assert {'"type": "mapping"', "`http`", "`tunnel`"} <= words
    assert not {word for word in words if word not in text}


def _source(name: str) -> str:
    return FORMAT.with_name(name).read_text()


def test_moods_and_levels_are_words_in_json() -> None:
    data = [event.to_data() for event in tell(command().trace()).events]
    assert {one["level"] for one in data} == {"main", "frames"}
    assert {one["mood"] for one in data} <= {mood.value for mood in Mood}
