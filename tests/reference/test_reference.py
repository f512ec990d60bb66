"""The API reference says what the code says, and its links lead somewhere."""

from __future__ import annotations

import re

import sandbox_anyio
import sandbox_trio_compat

from .docstrings import parse
from .page import PAGE, REGENERATE, Page, signature


def test_the_page_is_not_stale() -> None:
    assert PAGE.exists() and PAGE.read_text() == Page().render(), f"run: {REGENERATE}"


def test_every_public_name_is_there_and_every_link_leads_somewhere() -> None:
    text = PAGE.read_text()
    anchors = re.findall(r'<a id="([^"]+)">', text)
    assert len(anchors) == len(set(anchors))
    assert {*sandbox_anyio.__all__, *sandbox_trio_compat.__all__} <= set(anchors)
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= set(anchors)
    assert " at 0x" not in text


def test_a_docstring_is_taken_apart() -> None:
    doc = parse(
        """What it does,
        and how.

            code()

        :param one: the first,
            in two lines.
        :param two: the second.
        :returns: much.
        :raises ValueError: it is wrong.

        And a last word.
        """
    )
    assert doc.summary == "What it does, and how."
    assert doc.text == "What it does,\nand how.\n\n    code()\n\n\nAnd a last word."
    assert doc.fields == {
        "param": [("one", "the first, in two lines."), ("two", "the second.")],
        "returns": [("", "much.")],
        "raises": [("ValueError", "it is wrong.")],
    }


def test_a_signature_is_written_as_in_code() -> None:
    def call(one: int, *rest: str, two: float | None = 1.5, three=print) -> bytes:
        raise NotImplementedError

    assert signature("call", call) == (
        "call(one: int, *rest: str, two: float | None = 1.5, three=...) -> bytes"
    )

    class Made:
        def method(self, *, name: str = "x") -> None:
            raise NotImplementedError

    assert signature("method", Made.method, method=True) == "method(*, name: str = 'x') -> None"
