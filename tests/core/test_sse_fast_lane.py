"""Many events at once come to the same as one after the other."""

from __future__ import annotations

import base64
import json
import random
from itertools import pairwise

import pytest

from sandbox_proto.machines.exec_events import CommandExited, CommandFailed
from sandbox_proto.machines.exec_output import OutputCollector, RawLedger
from sandbox_proto.wire.command_models import OutputChunk
from sandbox_proto.wire.exec_messages import Exit, MalformedMessage
from sandbox_proto.wire.sse import RawOutput, SseParser, decode_event, encode_event, read_output

from ._exec import STARTED
from ._exec_http import HEAD, HttpLine, chunked, out

PLAIN = [
    b'event: stdout\ndata: {"offset": 0, "data": "aGVsbG8="}\n\n',
    b'event: stderr\ndata: {"offset":12,"data":""}\n\n',
    b'event: stdout\ndata: {"offset":7,"data":"/+8="}\n\n',
]
ODD = [
    b'event: stdout\r\ndata: {"offset": 0, "data": "aGVsbG8="}\r\n\r\n',
    b'event:stdout\ndata:{"offset": 0, "data": "aGVsbG8="}\n\n',
    b'data: {"offset": 0, "data": "aGVsbG8="}\nevent: stdout\n\n',
    b'event: stdout\ndata: {"data": "aGVsbG8=", "offset": 0}\n\n',
    b'event: stdout\ndata: {"offset": 0, "data": "aGVsbG8=", "more": 1}\n\n',
    b'event: stdout\ndata: {"offset": 0,\ndata:  "data": "aGVsbG8="}\n\n',
    b'event: stdout\nid: 7\ndata: {"offset": 0, "data": "aGVsbG8="}\n\n',
    b'event: stdout\ndata: {"offset": 01, "data": "aGVsbG8="}\n\n',
    b'event: stdout\ndata: {"offset": -1, "data": "aGVsbG8="}\n\n',
    rb'event: stdout\ndata: {"offset": 0, "data": "\/+8="}'.replace(rb"\n", b"\n") + b"\n\n",
    b'event: stdout\ndata: {"offset": 0, "data": "aGVsbG8"}\n\n',
    b'event: stdout\ndata: {"offset": 0, "data": "aGVs bG8="}\n\n',
    b'event: stdout\ndata: {"offset": 0, "data": null}\n\n',
    b'event: stdout\ndata: {"offset": "0", "data": ""}\n\n',
    b"event: stdout\ndata: nonsense\n\n",
    b": still here\n\n",
    b"event: news\ndata: {}\n\n",
    b'event: exit\ndata: {"exit_code": 0}\n\n',
    b"\n",
]


def _slowly(data: bytes) -> list[object]:
    found: list[object] = []
    for event in SseParser().feed(data):
        try:
            found.append(decode_event(*event))
        except MalformedMessage:
            found.append("malformed")
    return [one for one in found if one is not None]


@pytest.mark.parametrize("event", PLAIN + ODD)
@pytest.mark.parametrize("before", [b"", PLAIN[0]])
def test_what_is_read_at_once_is_what_it_says(event, before):
    output, end = read_output(before + event)
    assert output + _slowly((before + event)[end:]) == _slowly(before + event)
    assert (end == len(before + event)) == (event in PLAIN)


def test_accounts_of_many_pieces_are_those_of_each(sweep):
    chance = random.Random(1)
    for _ in range(300 * sweep):
        quick, slow = RawLedger(), RawLedger()
        text = "".join(chance.choices("aé€😀\n", k=20)).encode() + chance.choice([b"", b"\xff\xfe"])
        cuts = sorted(chance.randint(0, len(text)) for _ in range(chance.randint(0, 8)))
        pieces, start = [], 0
        for end in [*cuts, len(text)]:
            offset = start + chance.choice([0] * 15 + [-1, 3])
            pieces.append(
                RawOutput(chance.choice(["stdout"] * 5 + ["stderr"]), text[start:end], offset)
            )
            start = end
        output, count = quick.take_run(pieces)
        told = [*output, *(one for piece in pieces[count:] for one in quick.take(piece))]
        told += quick.finish()
        assert told == [*(one for piece in pieces for one in slow.take(piece)), *slow.finish()]
        assert quick.offsets == slow.offsets
        assert quick.as_text().offsets == slow.as_text().offsets


@pytest.mark.parametrize("keep_bytes", [False, True])
@pytest.mark.parametrize("limit", [None, 5, 100])
def test_many_chunks_are_kept_as_one_after_the_other(keep_bytes, limit):
    chance = random.Random(2)
    for _ in range(50):
        quick = OutputCollector(limit, keep_bytes=keep_bytes)
        slow = OutputCollector(limit, keep_bytes=keep_bytes)
        offset = 0
        for _ in range(3):
            run = []
            for _ in range(chance.randint(0, 6)):
                text = chance.choice(["a", "€", "x" * 60, "y" * 5000])
                run.append(OutputChunk("stdout", text, offset, raw=text.encode()))
                offset += len(text.encode())
            quick.add_run(run)
            for chunk in run:
                slow.add(chunk)
        ours, theirs = quick.result(0), slow.result(0)
        assert (ours, ours.stdout_bytes) == (theirs, theirs.stdout_bytes)


def _conversation(chance: random.Random) -> bytes:
    data, offset = encode_event(STARTED), 0
    for _ in range(chance.randint(0, 30)):
        raw = chance.choice([b"a", b"line\n", "€".encode(), b"\xff", "€".encode()[:2], b"z" * 300])
        skew = chance.choice([0] * 25 + [-1, 2])
        if chance.random() < 0.9:
            fields = {"offset": offset + skew, "data": base64.b64encode(raw).decode()}
            data += b"event: stdout\ndata: " + json.dumps(fields).encode() + b"\n\n"
        else:
            data += encode_event(out(raw, offset + skew)).replace(b"\n", b"\r\n")
        offset = max(offset, offset + skew + len(raw))
        if chance.random() < 0.1:
            data += chance.choice(ODD[8:])
    return data + encode_event(Exit(3))


def test_a_session_says_the_same_however_it_is_asked(sweep):
    chance = random.Random(3)
    ended = failed = 0
    for _ in range(80 * sweep):
        data = _conversation(chance)
        cuts = sorted(chance.randint(0, len(data)) for _ in range(chance.randint(0, 8)))
        events_at = [0, *cuts, len(data)]
        whole = b"".join(chunked(data[a:b]) for a, b in pairwise(events_at) if a < b)
        cuts = sorted(chance.randint(0, len(whole)) for _ in range(chance.randint(0, 8)))
        ends = [0, *cuts, len(whole)]
        pieces = [whole[a:b] for a, b in pairwise(ends) if a < b]
        heard = []
        for quick in (True, False):
            line = HttpLine()
            line.ask()
            line.feed(HEAD)
            events = list(line.events)
            for piece in pieces:
                line.session.receive_data(piece, now=line.now)
                while True:
                    if quick and (chunks := line.session.take_output()):
                        events += chunks
                    elif (event := line.session.next_event()) is not None:
                        events.append(event)
                    else:
                        break
            heard.append(([str(event) for event in events], line.session.last_stdout_offset))
        assert heard[0] == heard[1]
        ended += isinstance(events[-1], CommandExited)
        failed += isinstance(events[-1], CommandFailed)
    assert ended and failed  # or the test would show little
