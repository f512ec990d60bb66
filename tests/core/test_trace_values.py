"""Values as data, and back."""

from __future__ import annotations

import json
import math
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_proto.faults import Fault, FaultKind, Phase
from sandbox_proto.flows.effects import Answered, Broke, Perform, WaitUntil
from sandbox_proto.flows.sandboxes import SANDBOXES
from sandbox_proto.plans.timeouts import Timeouts
from sandbox_proto.trace.chance import Chance
from sandbox_proto.trace.values import (
    CannotEncodeError,
    Handle,
    RecordedSource,
    decode,
    encode,
    spelt,
    unspelt,
)
from sandbox_proto.wire.exec_messages import Execute
from sandbox_proto.wire.http import Request, Response, StreamedBody
from sandbox_proto.wire.models import RunConfig, SandboxRecord
from sandbox_proto.wire.urls import Url

from ._helpers import make_config


def through_json(value: object) -> Any:
    return decode(unspelt(json.loads(json.dumps(spelt(encode(value))))))


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.frozensets(st.integers()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=12,
)


@given(plain)
def test_plain_data_comes_back(value: object) -> None:
    assert through_json(value) == value


@given(st.dictionaries(st.sampled_from(["type", "text", "base64", "latin1", "head"]), st.text()))
def test_mappings_whose_keys_look_like_ours_come_back(value: dict[str, str]) -> None:
    assert through_json(value) == value


URL = Url.parse("https://api.test:8443/v2/boxes?limit=50")
REQUEST = Request("POST", URL, {"x-api-key": "k", "accept": "*/*"}, (b'{"a":1}', b"\xff\x00"))


@pytest.mark.parametrize(
    "value",
    [
        REQUEST,
        Perform(REQUEST, Timeouts.uniform(5), stream=True),
        WaitUntil(math.inf),
        Answered(Response(201, (("a", "1"), ("a", "2")), b"{}", "Created"), 1.5, 1.25),
        Broke(Fault(FaultKind.READ_TIMEOUT, "slow", Phase.SENT, 5.0), 2.0, 1.0),
        make_config(features=frozenset({"sandbox_sse_exec"}), timeout=Timeouts.uniform(3)),
        Execute(command="echo ä", command_id="c" * 32, env={"type": "text"}),
        SandboxRecord(name="n", run_config=RunConfig(user="u"), raw={"type": "x", "n": [1, {}]}),
        Chance("00ff", 3),
        SANDBOXES,
    ],
    ids=lambda value: type(value).__name__,
)
def test_objects_of_the_core_come_back(value: object) -> None:
    back = through_json(value)
    assert back == value
    assert type(back) is type(value)
    if attrs.has(type(value)) and isinstance(value, (Request, Response)):
        assert isinstance(back.body, type(value.body))


def test_lists_are_the_very_same() -> None:
    assert through_json(SANDBOXES) is SANDBOXES


def test_functions_of_the_core_go_by_name() -> None:
    assert through_json(SandboxRecord.parse) == SandboxRecord.parse
    with pytest.raises(CannotEncodeError, match="lambda"):
        encode(lambda: None)


def test_what_belongs_to_the_driver_is_stood_for() -> None:
    class Source:
        length, repeatable = 5, True

        def framed(self, head: bytes, tail: bytes) -> object:
            raise AssertionError

    assert through_json(Source()) == RecordedSource(5, True)
    assert through_json(StreamedBody(object(), 7)) == StreamedBody(Handle(), 7)
    with pytest.raises(CannotEncodeError, match="not of the core"):
        encode({"a": [object()]})


def test_a_subclass_of_the_drivers_is_what_it_is_made_of() -> None:
    class Sandbox(SandboxRecord):
        pass

    assert through_json(Sandbox(name="n")) == SandboxRecord(name="n")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({"type": "os.system"}, "nothing of the name 'os.system'"),
        ({"type": "errors.os"}, "nothing of the name"),
        ({"type": "wire.http.json.loads"}, "nothing of the name"),
        ({"type": "../x.Y"}, "nothing of the name"),
        ({"type": "wire.http.json_body"}, "no class"),
        ({"type": "faults.FaultKind", "name": "BAD_LUCK"}, "no member 'BAD_LUCK'"),
        ({"type": "wire.urls.Origin", "scheme": "http"}, r"missing fields \['host', 'port'\]"),
        ({"type": "wire.http.StreamedBody", "source": 1, "length": 1, "x": 1}, r"unknown.*'x'"),
        ({"type": "function", "name": "wire.http.Request"}, "no function"),
        ({"type": "function", "name": "builtins.eval"}, "nothing of the name"),
        ({"type": "constant", "name": "flows.sandboxes.SECRETS"}, "no list"),
    ],
)
def test_data_from_strangers_makes_nothing_else(data: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        decode(data)


@given(st.binary())
def test_bytes_are_spelt_in_one_way_that_comes_back(data: bytes) -> None:
    assert unspelt(spelt(data)) == data


def test_a_frame_is_readable() -> None:
    assert spelt(b'\x81\x12{"type":"started"}') == {"latin1": '\x81\x12{"type":"started"}'}


def test_chance_goes_on_where_it_was() -> None:
    chance = Chance("ab")
    first, number = chance(40), chance.random()
    again = Chance("ab")
    assert again(40) == first
    copy: Chance = through_json(again)
    assert copy.random() == number
    assert 0 <= number < 1
    assert chance(16) != first[:16]
