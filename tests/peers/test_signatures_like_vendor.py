"""Every public name of the vendor's package beside ours: what differs is an addition, or accepted.

Nothing is written down twice: names, parameters, defaults, fields and attributes are read from
both packages as they are installed. Annotations do not count. The list of all that differs is
printed by this test with ``-s``, and by ``python -m tests.peers.test_signatures_like_vendor``.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

import sandbox_anyio

vendor = pytest.importorskip(
    "langsmith.sandbox", reason="the vendor's package is part of the extra 'test'"
)

_GENERATED = "an answer in the raw belongs to the generator of that client, not to registries"

_PRIVATE_THERE = "sandboxes come from a client; there it is private"
_FROM_RUN = "handles come from `run` and `reconnect`, never from users"
_BOTH_WAYS = "can be awaited as there, and entered without"
_NAMED = "there the HTTP library's; here each has a name"

# What may differ, by its key in the list (or the beginning of keys, and a star), and why.
# An entry that is needed no more fails a test.
ACCEPTED = {
    "AsyncSandbox.tunnel: sort": _BOTH_WAYS,
    "AsyncSandboxClient.sandbox: sort": _BOTH_WAYS,
    "AsyncSandbox(): parameter 'client'": _PRIVATE_THERE,
    "Sandbox(): parameter 'client'": _PRIVATE_THERE,
    "AsyncCommandHandle(): *": _FROM_RUN,
    "CommandHandle(): *": _FROM_RUN,
    "AsyncSandboxClient.__del__: name": "nothing is left to the garbage collector",
    "SandboxClient.__del__: name": "a finalizer closes it, and those who still use it keep it",
    "AsyncServiceURL.request: parameter 'kwargs'": _NAMED,
    "ServiceURL.request: parameter 'kwargs'": _NAMED,
    "AsyncSandboxClient.registries.with_raw_response: name": _GENERATED,
    "AsyncSandboxClient.registries.with_streaming_response: name": _GENERATED,
    "SandboxClient.registries(): *": "the resource comes from a client, never from users",
    "SandboxClient.registries.with_raw_response: name": _GENERATED,
    "SandboxClient.registries.with_streaming_response: name": _GENERATED,
}


@attrs.frozen
class Difference:
    """One thing that is not the same here and there."""

    where: str
    aspect: str
    detail: str
    addition: bool = False

    @property
    def key(self) -> str:
        return f"{self.where}: {self.aspect}"

    @property
    def acceptance(self) -> str | None:
        """The key in `ACCEPTED`, if it needs one and has one."""
        for key in () if self.addition else ACCEPTED:
            if key == self.key or (key.endswith("*") and self.key.startswith(key[:-1])):
                return key
        return None

    def __str__(self) -> str:
        text = f"{self.key}: {self.detail}"
        if self.addition:
            return f"+ {text}"
        return f"= {text} ({ACCEPTED[self.acceptance]})" if self.acceptance else f"! {text}"


@functools.cache
def differences() -> list[Difference]:
    found = [*compare_modules(vendor, sandbox_anyio)]
    for client in ("AsyncSandboxClient", "SandboxClient"):
        theirs, ours = (
            getattr(package, client)(api_endpoint="http://localhost", api_key="k").registries
            for package in (vendor, sandbox_anyio)
        )
        found += compare_classes(f"{client}.registries", type(theirs), type(ours))
    return found


def test_what_differs_is_an_addition_or_accepted() -> None:
    print(*differences(), sep="\n")
    assert [str(each) for each in differences() if not each.addition and not each.acceptance] == []


def test_nothing_is_accepted_that_does_not_differ() -> None:
    assert {*ACCEPTED} - {each.acceptance for each in differences()} == set()


# --- the comparison is no blind one ---------------------------------------------------

# What two packages say, and what of it must be told.
SEEN = [
    ("X = 1", "", ["X: name"]),
    ("X = 1", "X = 2", ["X: value"]),
    ("X = 1", "def X(): ...", ["X: sort"]),
    ("X = typing.Literal['a']", "X = typing.Literal['a', 'b']", ["X: value"]),
    ("def f(): ...", "async def f(): ...", ["f: sort"]),
    ("def f(a): ...", "def f(): ...", ["f: parameter 'a'"]),
    ("def f(a): ...", "def f(*, a): ...", ["f: parameter 'a'"]),
    ("def f(a, b): ...", "def f(b, a): ...", ["f: parameter 'a'", "f: parameter 'b'"]),
    ("def f(a=1): ...", "def f(a=True): ...", ["f: default of 'a'"]),
    ("def f(a=1): ...", "def f(a): ...", ["f: default of 'a'"]),
    ("def f(): ...", "def f(*, a): ...", ["f: parameter 'a'"]),
    ("class C:\n x = 1", "class C: ...", ["C.x: name"]),
    ("class C:\n x = 1", "class C:\n x = 2", ["C.x: value"]),
    ("class C:\n def f(self): ...", "class C:\n f = property(len)", ["C.f: sort"]),
    ("class C:\n def f(self, *, a): ...", "class C:\n def f(self): ...", ["C.f: parameter 'a'"]),
    ("class C:\n def f(self): ...", "class C:\n @classmethod\n def f(c): ...", ["C.f: sort"]),
    ("class C:\n def __len__(self): ...", "class C: ...", ["C.__len__: name"]),
    ("class C:\n def __init__(self, a): ...", "class C: ...", ["C(): parameter 'a'"]),
    ("class C: ...", "class C:\n __eq__ = len", ["C: equality"]),
    (
        "@dataclasses.dataclass\nclass C:\n a: int\n b: int",
        "@attrs.define\nclass C:\n b: int\n a: int",
        ["C(): parameter 'a'", "C(): parameter 'b'", "C: fields"],
    ),
    (
        "@dataclasses.dataclass\nclass C:\n a: list = dataclasses.field(default_factory=list)",
        "@attrs.define\nclass C:\n a: list = attrs.field(factory=set)",
        ["C(): default of 'a'"],
    ),
    (
        "@dataclasses.dataclass(frozen=True)\nclass C:\n a: int",
        "@attrs.define(unsafe_hash=True)\nclass C:\n a: int",
        ["C: frozen"],
    ),
    ("class D(typing.TypedDict):\n a: int", "class D(typing.TypedDict): ...", ["D['a']: key"]),
    ("class D(typing.TypedDict): ...", "class D(typing.TypedDict):\n a: int", ["D['a']: key"]),
    (
        "class D(typing.TypedDict):\n a: int",
        "class D(typing.TypedDict, total=False):\n a: str",
        ["D['a']: type", "D['a']: required"],
    ),
    ("class E(LookupError): ...", "class E(Exception): ...", ["E: bases"]),
    (
        "class E(Exception): ...",
        "class E(Exception):\n __repr__ = __str__ = lambda self: 'y'",
        ["E: text", "E: text"],
    ),
    (
        "class E(Exception):\n def __init__(self, a=0):\n  self.a = a",
        "class E(Exception):\n def __init__(self, a=0):\n  self.b = a",
        ["E.a: attribute", "E.a: attribute"],
    ),
]

# What two packages say that makes no difference, or only an addition.
UNSEEN = [
    ("", "X = 1"),
    ("X = typing.Union[str, int]", "X = int | str"),
    ("def f(a): ...", "def f(a, b=1, *, c=2): ..."),
    ("def f(a, *, b): ...", "def f(a=1, *, b=1): ..."),
    ("def f(*, a, b, _c): ...", "def f(*, b, a): ..."),
    ("class C: ...", "class C:\n def f(self): ..."),
    ("class C:\n a = property(len)", "class C:\n a = functools.cached_property(len)"),
    ("class D(typing.TypedDict): ...", "class D(typing.TypedDict, total=False):\n a: int"),
    ("class E(Exception): ...", "class E(ValueError): ..."),
    (
        "@dataclasses.dataclass\nclass C:\n a: list = dataclasses.field(default_factory=list)",
        "@attrs.define\nclass C:\n a: list = attrs.field(factory=list)\n b: int = 0",
    ),
]


@pytest.mark.parametrize(("theirs", "ours", "keys"), SEEN)
def test_a_difference_is_seen(theirs: str, ours: str, keys: list[str]) -> None:
    found = compare_modules(_module(theirs), _module(ours))
    assert [each.key for each in found if not each.addition] == keys


@pytest.mark.parametrize(("theirs", "ours"), UNSEEN)
def test_an_addition_is_no_complaint(theirs: str, ours: str) -> None:
    found = compare_modules(_module(theirs), _module(ours))
    assert [str(each) for each in found if not each.addition] == []


def _module(source: str) -> types.SimpleNamespace:
    names = dict(globals())
    exec(source, names)
    made = {name: value for name, value in names.items() if name not in globals()}
    return types.SimpleNamespace(**made, __all__=[*made])


# --- names ----------------------------------------------------------------------------


def compare_modules(theirs: Any, ours: Any) -> Iterator[Difference]:
    public = {name for name in vars(theirs) if _is_public(theirs, name)}
    for name in sorted({*theirs.__all__} | public):
        if name in ours.__all__:
            yield from compare_things(name, getattr(theirs, name), getattr(ours, name))
        else:
            yield Difference(name, "name", "is missing here")
    for name in sorted({*ours.__all__} - {*theirs.__all__} - public):
        yield Difference(name, "name", "is only here", addition=True)


def _is_public(module: Any, name: str) -> bool:
    return not name.startswith("_") and not inspect.ismodule(getattr(module, name))


def compare_things(where: str, theirs: Any, ours: Any) -> Iterator[Difference]:
    """Two things of one name, whatever they are."""
    sorts = [_sort(theirs), _sort(ours)]
    yield from _compare(where, "sort", *sorts)
    match sorts:
        case ["typed dictionary", "typed dictionary"]:
            yield from _compare_typed_dicts(where, theirs, ours)
        case ["class", "class"]:
            yield from compare_classes(where, theirs, ours)
        case ["value", "value"]:
            yield from _compare(where, "value", _shape(theirs), _shape(ours))
        case _ if callable(theirs) and callable(ours):
            yield from _compare_signatures(where, theirs, ours)


def _sort(thing: Any) -> str:
    """What a name stands for, as far as those who use it can tell."""
    match thing:
        case classmethod() | staticmethod():
            return f"{type(thing).__name__}, {_sort(thing.__func__)}"
        case property():
            told = str(inspect.signature(thing.fget).return_annotation)
            promised = inspect.iscoroutinefunction(thing.fget) or told.startswith("Awaitable")
            return "awaitable" if promised else "attribute"
        case functools.cached_property() | types.MemberDescriptorType():
            return "attribute"
        case _ if typing.is_typeddict(thing):
            return "typed dictionary"
        case type() if not typing.get_args(thing):
            return "class"
        case _ if inspect.iscoroutinefunction(thing):
            return "coroutine function"
        case _ if inspect.isasyncgenfunction(thing):
            return "asynchronous generator"
        case _:
            return "function" if inspect.isroutine(thing) else "value"


def _compare(where: str, aspect: str, theirs: Any, ours: Any) -> Iterator[Difference]:
    if theirs != ours or type(theirs) is not type(ours):
        yield Difference(where, aspect, f"{theirs!r} there, {ours!r} here")


def _shape(thing: Any) -> Any:
    """A constant or a type as something that compares across packages."""
    if isinstance(thing, list):
        return [_shape(each) for each in thing]
    arguments = [_shape(each) for each in typing.get_args(thing)]
    if typing.get_origin(thing) in (typing.Union, types.UnionType):
        return "one of", sorted(arguments, key=repr)
    if arguments:
        return _shape(typing.get_origin(thing)), arguments
    return thing.__name__ if inspect.isclass(thing) else thing


def _compare_typed_dicts(where: str, theirs: Any, ours: Any) -> Iterator[Difference]:
    their_types, our_types = typing.get_type_hints(theirs), typing.get_type_hints(ours)
    for key, their_type in their_types.items():
        place = f"{where}[{key!r}]"
        if key in our_types:
            yield from _compare(place, "type", _shape(their_type), _shape(our_types[key]))
            required = [key in each.__required_keys__ for each in (theirs, ours)]
            yield from _compare(place, "required", *required)
        else:
            yield Difference(place, "key", "is missing here")
    for key in our_types.keys() - their_types.keys():
        yield Difference(
            f"{where}[{key!r}]", "key", "is only here", addition=key in ours.__optional_keys__
        )


# --- classes --------------------------------------------------------------------------


def compare_classes(where: str, theirs: type, ours: type) -> Iterator[Difference]:
    yield from _compare_signatures(f"{where}()", theirs, ours)
    yield from _compare_fields(where, theirs, ours)
    yield from _compare(where, "equality", _equality(theirs), _equality(ours))
    their_members, our_members = _members(theirs), _members(ours)
    for name in their_members:
        if name not in our_members:
            yield Difference(f"{where}.{name}", "name", "is missing here")
        elif not name.startswith("_"):
            yield from _compare_members(f"{where}.{name}", name, theirs, ours)
    for name in our_members:
        if name not in their_members and not name.startswith("_") and _is_own(name, ours):
            yield Difference(f"{where}.{name}", "name", "is only here", addition=True)
    if issubclass(theirs, Exception):
        yield from _compare_errors(where, theirs, ours)


def _equality(cls: type) -> str:
    how = "by identity" if cls.__eq__ is object.__eq__ else "by value"
    return f"{how}, {'hashable' if cls.__hash__ else 'not hashable'}"


def _members(cls: type) -> list[str]:
    """What it has beyond its fields and what every object has: also what syntax asks for."""
    common = {*dir(Exception if issubclass(cls, Exception) else object), *_fields(cls)}
    return [
        name
        for name in dir(cls)
        if name not in common and (not name.startswith("_") or _is_syntax(cls, name))
    ]


def _is_syntax(cls: type, name: str) -> bool:
    return name.startswith("__") and inspect.isfunction(inspect.getattr_static(cls, name))


def _is_own(name: str, cls: type) -> bool:
    """Whether it does not come from another public class, where it is listed already."""
    home = next(base for base in cls.__mro__ if name in vars(base))
    return home is cls or home.__name__ not in sandbox_anyio.__all__


def _compare_members(where: str, name: str, theirs: type, ours: type) -> Iterator[Difference]:
    their, our = (inspect.getattr_static(each, name) for each in (theirs, ours))
    if isinstance(their, classmethod | staticmethod):
        yield from _compare(where, "sort", _sort(their), _sort(our))
        their, our = getattr(theirs, name), getattr(ours, name)
    yield from compare_things(where, their, our)


# --- fields ---------------------------------------------------------------------------


def _fields(cls: Any) -> dict[str, Any]:
    """The public fields and their defaults, in order."""
    fields: Any = ()
    if dataclasses.is_dataclass(cls):
        fields = dataclasses.fields(cls)
    elif attrs.has(cls):
        fields = attrs.fields(cls)
    return {each.name: _default(each) for each in fields if not each.name.startswith("_")}


def _default(field: Any) -> Any:
    factory = getattr(field, "default_factory", getattr(field.default, "factory", None))
    if factory not in (None, dataclasses.MISSING):
        return factory()
    required = field.default in (dataclasses.MISSING, attrs.NOTHING)
    return inspect.Parameter.empty if required else field.default


def _compare_fields(where: str, theirs: type, ours: type) -> Iterator[Difference]:
    their_fields, our_fields = [*_fields(theirs)], [*_fields(ours)]
    count = len(their_fields)
    yield from _compare(where, "fields", their_fields, our_fields[:count])
    for name in our_fields[count:]:
        yield Difference(f"{where}.{name}", "field", "is only here", addition=True)
    if their_fields:
        frozen = [_is_frozen(cls, their_fields[0]) for cls in (theirs, ours)]
        yield from _compare(where, "frozen", *frozen)


def _is_frozen(cls: type, field: str) -> bool:
    try:
        setattr(cls.__new__(cls), field, None)
    except AttributeError:
        return True
    return False


# --- signatures -----------------------------------------------------------------------


def _compare_signatures(where: str, theirs: Any, ours: Any) -> Iterator[Difference]:
    their_parameters, our_parameters = _parameters(theirs), _parameters(ours)
    our_order = [*our_parameters]
    for place, (name, their) in enumerate(their_parameters.items()):
        our = our_parameters.get(name)
        if our is None:
            yield Difference(where, f"parameter {name!r}", "is missing here")
            continue
        by_place = their.kind is not their.KEYWORD_ONLY
        kinds = [f"{each.kind.description}" for each in (their, our)]
        if by_place:
            kinds = [f"{kinds[0]}, number {place}", f"{kinds[1]}, number {our_order.index(name)}"]
        yield from _compare(where, f"parameter {name!r}", *kinds)
        if their.default is their.empty and our.default is not our.empty:
            yield Difference(where, f"parameter {name!r}", "is optional here", addition=True)
        else:
            yield from _compare(where, f"default of {name!r}", their.default, our.default)
    for name, our in our_parameters.items():
        if name not in their_parameters:
            optional = our.default is not our.empty
            yield Difference(where, f"parameter {name!r}", "is only here", addition=optional)


def _parameters(function: Any) -> dict[str, inspect.Parameter]:
    """The public ones. A default is what a factory makes, or None where it says "not given"."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # an exception that has no constructor of its own
        parameters = inspect.signature(lambda *args: None).parameters
    fields = _fields(function)
    public = {}
    for name, each in parameters.items():
        default = fields.get(name, each.default)
        if type(default).__name__ in ("Omit", "NotGiven"):
            default = None
        if not name.startswith("_"):
            public[name] = each.replace(default=default)
    return public


# --- errors ---------------------------------------------------------------------------


def _compare_errors(where: str, theirs: Any, ours: Any) -> Iterator[Difference]:
    """What catches them; what they say and hold, made with and without what is optional."""
    bases = _bases(theirs)
    yield from _compare(where, "bases", bases, [base for base in _bases(ours) if base in bases])
    for everything in (False, True):
        values = {
            name: ["x"]
            for name, each in _parameters(theirs).items()
            if name in _parameters(ours) and (everything or each.default is each.empty)
        }
        message = values.pop("args", [])  # where there is no constructor of its own
        their, our = theirs(*message, **values), ours(*message, **values)
        for name, value in {"args": their.args, **vars(their)}.items():
            here = getattr(our, name, "missing")
            yield from _compare(f"{where}.{name}", "attribute", value, here)
        yield from _compare(where, "text", str(their), str(our))


def _bases(cls: type) -> list[str]:
    return [base.__name__ for base in cls.__mro__[1:] if base not in Exception.__mro__]


if __name__ == "__main__":
    print(*differences(), sep="\n")
