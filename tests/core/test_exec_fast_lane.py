"""The fast lane of output: many messages at once come to the same as one after the other.

Each quick way is held against its slow twin: cutting frames, reading messages, accounts, and
the whole session over random splits of the byte stream.
"""

from __future__ import annotations

import json
import random
from collections import deque

import pytest

from sandbox_proto.machines.exec_events import CommandExited, CommandFailed, OutputLost
from sandbox_proto.machines.exec_output import OutputCollector, TextLedger
from sandbox_proto.machines.ws_frames import FrameSplitter, Kind
from sandbox_proto.wire.command_models import OutputChunk
from sandbox_proto.wire.exec_messages import MalformedMessage, decode_from_server, read_output

from ._exec import STARTED, Line
from ._ws import BINARY, PING, TEXT, frame

# Spellings of one message that JSON allows, and some that it does not.
SPELLINGS = [
    '{"type":"stdout","data":"plain","offset":0}',
    '{"type": "stderr", "data": "spaced", "offset": 12}',
    ' {\n\t"type" : "stdout" , "data" : "wide" ,\r\n "offset" : 3 } ',
    '{"type":"stdout","data":"","offset":0}',
    r'{"type":"stdout","data":"a \"quote\" \\ \n \u20ac \ud83d\ude00","offset":7}',
    r'{"type":"stdout","data":"half \ud83d of a pair","offset":7}',
    '{"type":"stdout","data":"\u20ac \U0001f600","offset":7}',
    '{"type":"stdout","data":"minus","offset":-1}',
    '{"type":"stdout","data":"minus nothing","offset":-0}',
    '{"type":"stdout","data":"zero","offset":00}',
    '{"type":"stdout","data":"leading zero","offset":07}',
    '{"type":"stdout","data":"plus","offset":+7}',
    '{"type":"stdout","data":"underscore","offset":1_0}',
    '{"type":"stdout","data":"other digits","offset":\u0661}',
    '{"type":"stdout","data":"point","offset":1.0}',
    '{"type":"stdout","data":"exponent","offset":1e3}',
    '{"type":"stdout","data":"large","offset":123456789012345678901234567890}',
    '{"type":"stdout","data":"too large","offset":' + "9" * 5000 + "}",
    '{"type":"stdout","data":"null","offset":null}',
    '{"type":"stdout","data":"truth","offset":true}',
    '{"type":"stdout","data":"text","offset":"5"}',
    '{"type":"stdout","data":"more","offset":5,"extra":1}',
    '{"type":"stdout","data":"twice","offset":5,"offset":6}',
    '{"type":"stdout","data":"behind","offset":5} x',
    '{"type":"stdout","data":"two","offset":5}{"type":"stdout","data":"two","offset":8}',
    '{"type":"stdout","data":"open","offset":5',
    '{"type":"stdout","data":"bracket","offset":5]',
    '{"type":"stdout","data":"nested","offset":[5]}',
    '{"type":"stdout","offset":5,"data":"another order"}',
    '{"data":"another order","type":"stdout","offset":5}',
    '{"type":"stdout","data":"no offset"}',
    '{"type":"stdout","data":5,"offset":5}',
    '{"type":"stdout","data":"unescaped \n","offset":5}',
    '{"type":"stdout","data":"open',
    r'{"type":"stdout","data":"bad \x escape","offset":5}',
    '{"type":"progress","data":"unknown","offset":5}',
    '{"type":"exit","exit_code":0}',
    '{"type":"error","error":"e","error_type":"CommandError"}',
    "[]",
    "",
    "\0",
]


def _slowly(text: str) -> object:
    try:
        return decode_from_server(text)
    except MalformedMessage:
        return "malformed"


@pytest.mark.parametrize("before", [None, *SPELLINGS[:3]], ids=["alone", "", "spaced", "wide"])
@pytest.mark.parametrize("text", SPELLINGS, ids=[text[:40] for text in SPELLINGS])
def test_what_is_read_at_once_is_what_it_says(text, before):
    texts = deque([text] if before is None else [before, text])
    chunks = read_output(texts)
    assert chunks == [_slowly(one) for one in [before, text] if one is not None][: len(chunks)]
    assert list(texts) == [one for one in (before, text) if one is not None][len(chunks) :]


@pytest.mark.parametrize("text", [*SPELLINGS[:2], *SPELLINGS[3:8]])
def test_output_as_servers_spell_it_is_read_at_once(text):
    texts = deque([text] * 3)
    assert read_output(texts) == [_slowly(text)] * 3
    assert not texts


def test_mixed_messages_are_read_up_to_the_first_that_is_something_else(sweep):
    chance = random.Random(1)
    for _ in range(500 * sweep):
        texts = chance.choices(SPELLINGS, weights=[40, 20, *[1] * (len(SPELLINGS) - 2)], k=12)
        left = deque(texts)
        read: list[object] = []
        while left:
            read += read_output(left) or [_slowly(left.popleft())]
        assert read == [_slowly(text) for text in texts]


_SIZES = [0, 1, 2, 125, 126, 127, 200, 65535, 65536, 65600]


def _frames(chance: random.Random, sizes: list[int]) -> bytes:
    kinds = [
        lambda size: frame(TEXT, b"x" * size),
        lambda size: frame(TEXT, b"x" * size),
        lambda size: frame(TEXT, b"x" * size),
        lambda size: frame(BINARY, b"b" * size),
        lambda size: frame(PING, b"p" * min(size, 125)),
        lambda size: frame(TEXT, b"y" * size, form=8),  # misspelt if it is short
        lambda size: frame(TEXT, b"m" * size, mask=b"abcd"),
    ]
    return b"".join(chance.choice(kinds)(chance.choice(sizes)) for _ in range(8))


def test_many_frames_are_cut_as_one_after_the_other(sweep):
    chance = random.Random(2)
    for _ in range(60 * sweep):
        data = _frames(chance, [0, 1, 2, 5, 125, 126, 200] if chance.random() < 0.5 else _SIZES)
        places = chance.randint(0, 12) if len(data) > 2000 else chance.choice([3, 12, len(data)])
        cuts = sorted(chance.randint(0, len(data)) for _ in range(places))
        pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]
        cut = []
        for quick in (True, False):
            splitter, found = FrameSplitter(1 << 20), []
            for piece in pieces:
                splitter.feed(piece)
                while True:
                    if quick and (texts := splitter.take_texts()):
                        found += [(Kind.TEXT, text) for text in texts]
                    elif (one := splitter.take(in_message=False)) is None:
                        break
                    elif one.kind is Kind.OTHER and found and found[-1][0] is Kind.OTHER:
                        found[-1] = (Kind.OTHER, found[-1][1] + one.data)
                    else:
                        found.append((one.kind, one.data))
            cut.append(found)
        assert cut[0] == cut[1]


def test_accounts_of_many_pieces_are_those_of_each(sweep):
    chance = random.Random(3)
    for _ in range(300 * sweep):
        quick, slow = TextLedger(), TextLedger()
        pieces = []
        ends = {"stdout": 0, "stderr": 0}
        for _ in range(10):
            stream = chance.choice(["stdout", "stdout", "stderr"])
            data = chance.choice(["", "abc", "\u20ac", "a" * 50])
            offset = ends[stream] + chance.choice([0] * 12 + [-1, -3, 2, -1000])
            pieces.append(OutputChunk(stream, data, offset))
            ends[stream] = max(ends[stream], offset + len(data.encode()))
        output, count = quick.take_run(pieces)
        output = [*output]
        for piece in pieces[count:]:
            output += quick.take(piece)
        assert output == [one for piece in pieces for one in slow.take(piece)]
        assert quick.offsets == slow.offsets


@pytest.mark.parametrize("limit", [None, 0, 1, 7, 64, 1000, 9000])
def test_many_chunks_are_kept_as_one_after_the_other(limit, sweep):
    chance = random.Random(4)
    for _ in range(100 * sweep):
        quick, slow = OutputCollector(limit), OutputCollector(limit)
        ends = {"stdout": 0, "stderr": 0}
        for _ in range(chance.randint(1, 5)):
            run = []
            for _ in range(chance.randint(0, 9)):
                size = chance.choice([1, 80, 80, 5000])
                data = chance.choice(["a", "abc", "\u20ac", "x" * chance.randint(1, size)])
                stream = chance.choice(["stdout", "stderr"])
                run.append(OutputChunk(stream, data, ends[stream]))
                ends[stream] += len(data.encode())
            quick.add_run(run)
            for chunk in run:
                slow.add(chunk)
            if chance.random() < 0.5:  # being asked in between changes nothing
                assert quick.result(0) == slow.result(0)
        assert quick.result(0) == slow.result(0)


@pytest.mark.parametrize("limit", [0, 1, 7, 64, 1000])
def test_what_is_kept_is_the_head_and_the_tail_whenever_the_limit_comes(limit, sweep):
    chance = random.Random(6)
    for _ in range(50 * sweep):
        pieces = [chance.choice(["a", "\u20ac", "x" * 30, "y" * 700]) for _ in range(12)]
        collector, offset = OutputCollector(), 0
        late = chance.randint(0, 12)
        for number, data in enumerate(pieces):
            if number == late:
                collector.limit(limit)
            collector.add(OutputChunk("stdout", data, offset))
            offset += len(data.encode())
        collector.limit(limit)
        whole = "".join(pieces).encode()
        head, tail = limit - limit // 2, limit // 2
        result = collector.result(0)
        if len(whole) <= limit:
            assert (result.stdout, result.omitted) == (whole.decode(), ())
        else:
            assert head - 3 <= len(kept := result.stdout.encode()) <= limit
            [gap] = result.omitted
            assert kept == whole[: gap.start] + whole[gap.end :]
            assert head - 3 <= gap.start <= head and tail - 3 <= len(whole) - gap.end <= tail


def _conversation(chance: random.Random) -> list[str]:
    """What a server says after `started`, most of it plain output."""
    texts, ends = [], {"stdout": 0, "stderr": 0}
    for _ in range(chance.randint(0, 40)):
        stream = chance.choice(["stdout", "stdout", "stderr"])
        data = chance.choice(["a", "line\n", "\u20ac", '"', "z" * 200])
        offset = ends[stream] + chance.choice([0] * 30 + [-2, 4])
        message = {"type": stream, "data": data, "offset": offset}
        if chance.random() < 0.05:
            message = {"offset": offset, "data": data, "type": stream}
        texts.append(json.dumps(message, ensure_ascii=chance.random() < 0.5))
        ends[stream] = max(ends[stream], offset + len(data.encode()))
        if chance.random() < 0.05:
            texts.append(chance.choice(['{"type":"news"}', json.dumps(STARTED.to_json())]))
    last = ['{"type":"exit","exit_code":3}', "nonsense", '{"type":"stdout","data":1,"offset":0}']
    return [*texts, chance.choice([*last, last[0], last[0]]), '{"type":"exit","exit_code":9}']


def test_a_session_says_the_same_however_it_is_asked(sweep):
    chance = random.Random(5)
    lost = ended = failed = 0
    for _ in range(60 * sweep):
        texts = _conversation(chance)
        data = b"".join(
            frame(TEXT, text.encode()) + frame(PING, b"") * (chance.random() < 0.05)
            for text in texts
        )
        cuts = sorted(chance.randint(0, len(data)) for _ in range(chance.randint(0, 8)))
        pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]
        heard = []
        for quick in (True, False):
            line = Line()
            line.open()
            line.say(STARTED)
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
            offsets = line.session.last_stdout_offset, line.session.last_stderr_offset
            heard.append(([str(event) for event in events], offsets, line.session.over))
        assert heard[0] == heard[1]
        lost += any(isinstance(event, OutputLost) for event in events)
        ended += isinstance(events[-1], CommandExited)
        failed += isinstance(events[-1], CommandFailed)
    assert lost and ended and failed  # or the test would show little
