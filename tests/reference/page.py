"""The API reference, one page, made of signatures and docstrings."""

from __future__ import annotations

import enum
import importlib
import inspect
import re
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs

from .docstrings import Docstring, parse

PAGE = Path(__file__).parent.parent.parent / "sandbox_anyio" / "API.md"
REGENERATE = "python -m tests.reference"
_PACKAGES = ("sandbox_anyio", "sandbox_proto", "sandbox_trio_compat")
# Modules of the core that are for others than this package's own drivers.
_OF_THE_CORE = (
    "config",
    "faults",
    "plans.retry",
    "plans.timeouts",
    "plans.pool",
    "plans.route",
    "machines.base",
    "flows.effects",
    "flows.creation",
    "flows.sandboxes",
    "flows.commands",
    "machines.exec_events",
    "machines.exec_session",
    "machines.tunnel_session",
    "embedding",
    "testing",
)
_HEAD = f"""# API reference

Made from signatures and docstrings by `{REGENERATE}`; do not edit. Times are in seconds, sizes in
bytes. The synchronous classes have the methods of their asynchronous sisters, without `await`.
"""


@attrs.frozen
class Entry:
    """A public name.

    :ivar home: the module that it is imported from.
    """

    home: str
    name: str
    value: Any


def public_names(module_name: str) -> list[Entry]:
    """What a module offers: its ``__all__``, else what is defined in it without an underscore."""
    module = importlib.import_module(module_name)
    names = getattr(module, "__all__", None)
    if names is None:
        own = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module_name
        ]
        names = [name for name in own if callable(getattr(module, name))]
    return [Entry(module_name, name, getattr(module, name)) for name in names]


def sections() -> dict[str, list[Entry]]:
    """Headings and what stands under them; each thing once, where users import it from."""
    faces = public_names("sandbox_anyio")
    parts = {
        "sandbox_anyio: clients and handles": [e for e in faces if _home(e.value, "sandbox_anyio")],
        "sandbox_anyio: data and settings": [
            e for e in faces if not _home(e.value, "sandbox_anyio") and not _is_error(e.value)
        ],
        "sandbox_anyio: errors": [
            e for e in faces if _is_error(e.value) and not _home(e.value, "sandbox_anyio")
        ],
        "sandbox_trio_compat": public_names("sandbox_trio_compat"),
    }
    for name in _OF_THE_CORE:
        parts[f"sandbox_proto.{name}"] = public_names(f"sandbox_proto.{name}")
    seen: set[int] = set()
    unique = {}
    for heading, entries in parts.items():
        kept = [entry for entry in entries if id(entry.value) not in seen]
        seen |= {id(entry.value) for entry in kept}
        if kept:
            unique[heading] = kept
    return unique


def _home(value: Any, package: str) -> bool:
    return str(getattr(value, "__module__", "")).startswith(package)


def _is_error(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


# --- signatures -----------------------------------------------------------------------


def signature(name: str, value: Any, *, method: bool = False) -> str:
    """A call as it is written, one parameter a line when it is long."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return name
    parameters = list(found.parameters.values())
    if method and parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    words: list[str] = []
    for number, each in enumerate(parameters):
        first_keyword = each.kind is each.KEYWORD_ONLY and not any(
            p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL) for p in parameters[:number]
        )
        words += ["*"] if first_keyword else []
        words.append(_parameter(each))
    back = found.return_annotation
    arrow = "" if back is inspect.Signature.empty else f" -> {_annotation(back)}"
    line = f"{name}({', '.join(words)}){arrow}"
    if len(line) > 96:
        inner = "".join(f"    {word},\n" for word in words)
        line = f"{name}(\n{inner}){arrow}"
    return line


def _parameter(each: inspect.Parameter) -> str:
    stars = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
    said = stars + each.name
    if each.annotation is not each.empty:
        said += f": {_annotation(each.annotation)}"
    if each.default is not each.empty:
        said += (" = " if each.annotation is not each.empty else "=") + _default(each.default)
    return said


def _annotation(value: Any) -> str:
    said = value if isinstance(value, str) else inspect.formatannotation(value)
    return re.sub(r"\b(?:typing|collections\.abc|sandbox_\w+(?:\.\w+)*)\.", "", said)


def _default(value: Any) -> str:
    if value is attrs.NOTHING or callable(value) or " at 0x" in repr(value):
        return "..."
    if isinstance(value, enum.Enum):
        return str(value)
    return repr(value)


# --- the page -------------------------------------------------------------------------


class Page:
    """Writes entries down and knows what can be linked to."""

    def __init__(self) -> None:
        self._sections = sections()
        self._anchors: set[str] = set()
        self._named: dict[int, str] = {}  # things whose names are another's, too, and have a longer
        for entry in (each for entries in self._sections.values() for each in entries):
            name = entry.name
            if name in self._anchors:
                name = self._named[id(entry.value)] = f"{entry.home}.{name}"
            self._anchors.add(name)
            if isinstance(entry.value, type):
                self._anchors |= {f"{name}.{member}" for member, _ in _members(entry.value)}

    def render(self) -> str:
        """The whole page."""
        parts = [_HEAD]
        for heading, entries in self._sections.items():
            links = ", ".join(f"[{entry.name}](#{self._name(entry)})" for entry in entries)
            parts.append(f"* **{heading}**: {links}\n")
        for heading, entries in self._sections.items():
            parts.append(f"\n## {heading}\n")
            for entry in entries:
                parts += self._entry(entry)
        return re.sub(r"\n{3,}", "\n\n", "".join(f"{part}\n" for part in parts)).rstrip() + "\n"

    def _name(self, entry: Entry) -> str:
        return self._named.get(id(entry.value), entry.name)

    def _entry(self, entry: Entry) -> Iterator[str]:
        name, value = self._name(entry), entry.value
        yield f'<a id="{name}"></a>\n### {name}\n'
        if isinstance(value, type):
            yield from self._class(name, value)
        elif inspect.isroutine(value):
            word = "async def" if inspect.iscoroutinefunction(value) else "def"
            yield f"```python\n{word} {signature(name, value)}\n```\n"
            yield from self._said(parse(value.__doc__), name)
        else:
            shown = repr(value) if isinstance(value, str) else _annotation(value)
            yield f"```python\n{name} = {shown}\n```\n"

    def _class(self, name: str, value: type) -> Iterator[str]:
        bases = [b.__name__ for b in value.__bases__ if b.__module__.split(".")[0] in _PACKAGES]
        if issubclass(value, enum.Enum):
            members = "\n".join(f"    {member.name} = {member.value!r}" for member in value)
            yield f"```python\nclass {name}(Enum):\n{members}\n```\n"
        elif typing.is_typeddict(value):
            optional = "  # may be left out"
            lines = [
                f"    {key}: {_annotation(hint)}{optional * (key in value.__optional_keys__)}"
                for key, hint in value.__annotations__.items()
            ]
            yield (
                f"```python\nclass {name}(TypedDict):\n"
                + "\n".join(lines or ["    ..."])
                + "\n```\n"
            )
        else:
            yield f"```python\nclass {signature(name, value).removesuffix(' -> None')}\n```\n"
            if shown := [self._link(base) for base in bases if base in self._anchors]:
                yield f"Is a {', '.join(shown)}.\n"
        yield from self._said(parse(value.__doc__), name)
        made = vars(value).get("__init__")
        if made is not None and made.__doc__ and not attrs.has(value):
            yield from self._said(parse(made.__doc__), name)
        if issubclass(value, enum.Enum) or typing.is_typeddict(value):
            return
        sister = f"Async{name}"
        if sister in self._anchors:
            yield from self._as_in(name, sister, value)
            return
        plain = [(n, m) for n, m in _members(value) if isinstance(m, property)]
        if plain:
            yield "| property | |\n|---|---|"
            for member, found in plain:
                kind = _annotation(found.fget.__annotations__.get("return", ""))
                anchor = f'<a id="{name}.{member}"></a>'
                typed = f" ({_code(kind)})" if kind else ""
                said = self._linked(parse(found.__doc__).summary, name).replace("|", "\\|")
                yield f"| {anchor}`{member}`{typed} | {said} |"
            yield ""
        for member, found in _members(value):
            if not isinstance(found, property):
                yield from self._method(name, member, found)

    def _as_in(self, name: str, sister: str, value: type) -> Iterator[str]:
        """The members of a synchronous class: those of its sister, by reference."""
        members = _members(value)
        shared = [m for m, _ in members if f"{sister}.{m}" in self._anchors]
        links = ", ".join(
            f'<a id="{name}.{each}"></a>[`{each}`](#{sister}.{each})' for each in shared
        )
        yield f"As in {self._link(sister)}, without `await`: {links}.\n"
        for member, found in members:
            if member not in shared:
                yield from self._method(name, member, getattr(found, "fget", found))

    def _method(self, owner: str, name: str, raw: Any) -> Iterator[str]:
        value = raw.__func__ if isinstance(raw, (classmethod, staticmethod)) else raw
        doc = parse(value.__doc__)
        word = "async def" if inspect.iscoroutinefunction(value) else "def"
        over = f"@{type(raw).__name__}\n" if raw is not value else ""
        yield f'<a id="{owner}.{name}"></a>\n#### {owner}.{name}\n'
        yield f"```python\n{over}{word} {signature(name, value, method=True)}\n```\n"
        yield from self._said(doc, owner)

    # --- what is said ------------------------------------------------------------------

    def _said(self, doc: Docstring, owner: str) -> Iterator[str]:
        if doc.text:
            yield self._paragraphs(doc.text, owner) + "\n"
        for kind, title in (("param", "Parameters"), ("ivar", "Attributes")):
            if fields := doc.fields.get(kind):
                yield f"**{title}**\n\n" + self._items(fields, owner)
        for _, said in doc.fields.get("returns", ()):
            yield f"**Returns** {self._linked(said, owner)}\n"
        if fields := doc.fields.get("raises"):
            linked = [(error, said) for error, said in fields]
            yield "**Raises**\n\n" + self._items(linked, owner, link=True)

    def _items(self, fields: Iterable[tuple[str, str]], owner: str, *, link: bool = False) -> str:
        lines = []
        for name, said in fields:
            names = [each.strip() for each in name.split(",")]
            shown = ", ".join(self._link(each) if link else f"`{each}`" for each in names)
            lines.append(f"* {shown}: {self._linked(said, owner)}")
        return "\n".join(lines) + "\n"

    def _paragraphs(self, text: str, owner: str) -> str:
        """Paragraphs, with indented ones as code."""
        parts = []
        for block in re.split(r"\n\n+", text):
            if all(line.startswith("    ") for line in block.splitlines()):
                body = "\n".join(line[4:] for line in block.splitlines())
                if parts and parts[-1].startswith("```"):
                    parts[-1] = parts[-1].removesuffix("\n```") + f"\n\n{body}\n```"
                else:
                    parts.append(f"```text\n{body}\n```")
            else:
                parts.append(self._linked(block, owner))
        return "\n\n".join(parts)

    def _linked(self, text: str, owner: str) -> str:
        def name(found: re.Match[str]) -> str:
            said = found[1]
            bare = said.removesuffix("()").partition("(")[0]
            for candidate in (bare, f"{owner}.{bare}"):
                if candidate in self._anchors:
                    return f"[`{said}`](#{candidate})"
            return f"`{said}`"

        return re.sub(r"(?<!`)`([^`]+)`(?!`)", name, text.replace("``", "`"))

    def _link(self, name: str) -> str:
        return f"[`{name}`](#{name})" if name in self._anchors else f"`{name}`"


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


def _members(value: type) -> list[tuple[str, Any]]:
    """Public methods and properties, those of our own base classes too, each once."""
    found: dict[str, Any] = {}
    for owner in value.__mro__:
        if owner.__module__.split(".")[0] not in _PACKAGES:
            continue
        for name, member in vars(owner).items():
            kinds = (property, classmethod, staticmethod)
            if name.startswith("_") or not (
                isinstance(member, kinds) or inspect.isfunction(member)
            ):
                continue
            if not name.startswith("to_dict"):
                found.setdefault(name, member)
    return sorted(found.items())
