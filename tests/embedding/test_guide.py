"""The guide says what the code says."""

from __future__ import annotations

import re

from ..core._tables import ANY, TABLES
from .guide import GUIDE, HERE, diagram, in_step


def test_the_guide_is_in_step() -> None:
    text = GUIDE.read_text()
    assert text == in_step(text), "run: python -m tests.embedding.guide"


def test_every_table_is_drawn_and_every_file_is_named() -> None:
    text = GUIDE.read_text()
    for name in TABLES:
        assert f"<!-- states: {name} -->" in text
    for path in HERE.glob("with_*.py"):
        assert f"[{path.name}]({path.name})" in text


def test_a_diagram_has_the_steps_of_its_table_and_no_others() -> None:
    for table in TABLES.values():
        names = dict(re.findall(r'state "(.+)" as (\w+)', diagram(table)))
        back = {id: ANY if name == "any state" else name for name, id in names.items()}
        drawn = {
            (back[one], back[other])
            for one, other in re.findall(r"^    (s\d+) --> (s\d+):", diagram(table), re.MULTILINE)
        }
        expected = {(row.state, target) for row in table.rows for target in table.targets(row)}
        assert drawn == expected and expected
