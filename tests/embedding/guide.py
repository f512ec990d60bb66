"""Keeps the guide in step: ``python -m tests.embedding.guide`` writes its blocks anew.

In `README.md` a line ``<!-- code: FILE NAME -->`` is followed by a block with that class or
function as it stands in the file, ``<!-- states: NAME -->`` by a diagram of that table.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

from ..core._tables import ANY, TABLES, Table

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
GUIDE = HERE / "README.md"
_BLOCK = re.compile(r"<!-- (code|states): (.+?) -->\n```\w+\n.*?```\n", re.DOTALL)


def snippet(file: str, name: str) -> str:
    """A class, function or method (``Class.method``), as it stands in a file."""
    source = (ROOT / file).read_text()
    node: ast.AST = ast.parse(source)
    for part in name.split("."):
        node = next(each for each in getattr(node, "body", []) if getattr(each, "name", "") == part)
    assert isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    lines = source.splitlines()[first - 1 : node.end_lineno]
    return textwrap.dedent("\n".join(lines))


def diagram(table: Table) -> str:
    """A table as a Mermaid state diagram."""
    ids = {state: f"s{number}" for number, state in enumerate([*table.states, ANY])}
    used = [*table.states, *([ANY] if any(row.state == ANY for row in table.rows) else [])]
    lines = ["stateDiagram-v2"]
    lines += [
        f'    state "{"any state" if state == ANY else state}" as {ids[state]}' for state in used
    ]
    lines.append(f"    [*] --> {ids[table.states[0]]}")
    arrows: dict[tuple[str, str], list[str]] = {}
    for row in table.rows:
        for target in table.targets(row):
            arrows.setdefault((row.state, target), []).append(row.on)
    for (state, target), reasons in arrows.items():
        said = " / ".join(reason.replace("`", "").replace(";", ",") for reason in reasons)
        lines.append(f"    {ids[state]} --> {ids[target]}: {said}")
    lines += [f"    {ids[state]} --> [*]" for state in table.ends]
    return "\n".join(lines)


def in_step(text: str) -> str:
    """The guide with its blocks as they should be."""

    def block(found: re.Match[str]) -> str:
        kind, what = found[1], found[2]
        if kind == "code":
            file, name = what.split()
            return f"<!-- code: {what} -->\n```python\n{snippet(file, name)}\n```\n"
        return f"<!-- states: {what} -->\n```mermaid\n{diagram(TABLES[what])}\n```\n"

    return _BLOCK.sub(block, text)


if __name__ == "__main__":
    GUIDE.write_text(in_step(GUIDE.read_text()))
