"""No secret is ever written, however it is cut."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox_proto.trace.redaction import Piece, Redactor

KEY = "lsv2_sk_0123456789abcdef"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVPmB92K27uhbUJU1p1r_wW1g"

# A text, and the secret in it.
STREAMS = {
    "the key": (f"before {KEY} after", KEY),
    "authorization": ("GET / HTTP/1.1\r\nAuthorization: Bearer abc.def\r\nhost: x\r\n", "abc.def"),
    "cookie": ("HTTP/1.1 200 OK\r\nset-cookie: sid=0a1b2c; Path=/\r\n\r\n", "sid=0a1b2c"),
    "our own header": ("GET / HTTP/1.1\r\nX-Team: blue whale\r\n\r\n", "blue whale"),
    "a token in JSON": ('{"token": "t0ps3cret-value", "port": 1}', "t0ps3cret-value"),
    "an escaped secret": (r'{"client_secret":"a\"quoted\"one"}', r"a\"quoted\"one"),
    "an opaque proxy secret": ('{"type":"opaque","value":"hunter2hunter2"}', "hunter2hunter2"),
    "a signed URL": ('"https://b.test/o?X-Amz-Signature=0badc0de99&x=1"', "0badc0de99"),
    "a JWT": (f"see {JWT} there", JWT),
    "a password in a URL": ("https://user:pa55word@registry.test/v2/", "pa55word"),
    "the user's pattern": ("the badge is B-4711-X.", "4711"),
}


def new_redactor() -> Redactor:
    return Redactor(secrets=[KEY], headers=["X-Team"], patterns=[r"B-(\d+)-X"])


def redacted(redactor: Redactor, values: list[Any]) -> list[Any]:
    for value in values:
        redactor.look_at(value)
    return [redactor.redact(value) for value in values]


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("kind", [bytes, str])
def test_a_secret_is_found_wherever_the_stream_is_cut(name: str, kind: type) -> None:
    text, secret = STREAMS[name]
    expected = text.replace(secret, "*" * len(secret))
    for first in range(len(text)):
        for second in range(first, len(text), 5):
            parts = [text[:first], text[first:second], text[second:]]
            pieces = [
                Piece(("a",), part.encode() if kind is bytes else part) for part in parts if part
            ]
            clean = redacted(new_redactor(), pieces)
            together = b"".join(p if isinstance(p, bytes) else p.encode() for p in clean).decode()
            assert secret not in together
            assert len(together) == len(text)
            if name not in ("authorization", "cookie"):  # whose whole value goes
                assert together == expected
            assert [len(c) for c in clean] == [len(p.data) for p in pieces]


@pytest.mark.parametrize("name", STREAMS)
def test_a_secret_is_found_in_whole_values(name: str) -> None:
    text, secret = STREAMS[name]
    (clean,) = redacted(new_redactor(), [{"said": [text, text.encode()]}])
    assert secret not in str(clean)


def test_other_streams_between_do_not_matter() -> None:
    text, secret = STREAMS["a token in JSON"]
    mine = [Piece(("a",), text[:18]), Piece(("a",), text[18:])]
    other = Piece(("b",), '{"token": "x')
    clean = redacted(new_redactor(), [mine[0], other, mine[1]])
    assert secret[:4] not in clean[0]
    assert secret[-4:] not in clean[2]


def test_what_was_recognised_once_goes_everywhere() -> None:
    text, secret = STREAMS["a token in JSON"]
    clean = redacted(new_redactor(), [f"echo {secret}", text, {"x": [secret.encode()]}])
    assert secret not in str(clean)


@pytest.mark.parametrize(
    "value",
    [
        {"headers": {"X-Api-Key": "short"}},
        {"headers": {"x-team": "short"}},
        {"headers": [["set-cookie", "short"], ["date", "today"]]},
        {"api_key": "short"},
        {"registry_password": "short"},
    ],
)
def test_what_stands_where_secrets_stand_goes(value: Any) -> None:
    clean = redacted(new_redactor(), [value, "a short day"])
    assert "short" not in str(clean[0])
    assert "*****" in str(clean[0])
    assert clean[1] == "a short day", "a short word is not taken out everywhere"


def test_innocent_words_stay() -> None:
    text = '{"tokens": 12, "secretary": "Ann", "path": "/keys", "signature_size": 9}'
    assert redacted(new_redactor(), [text, text.encode()]) == [text, text.encode()]


def test_length_is_counted_in_bytes() -> None:
    (clean,) = redacted(Redactor(patterns=["ä+"]), ["aäää!"])
    assert clean == "a******!"


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"redact: '\(' is no regular expression"):
        Redactor(patterns=["("])


def test_one_who_waits_for_more_is_told_when_there_is_more() -> None:
    redactor = new_redactor()
    first, second = Piece(("a",), b"x" * 10), Piece(("a",), b"y")
    redactor.look_at({"data": first})
    assert not redactor.ready({"data": first})
    redactor.look_at([second])
    assert redactor.ready({"data": first})
    assert redactor.ready(["no pieces", 1, None])
